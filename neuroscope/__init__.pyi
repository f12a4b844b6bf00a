__version__: str

# open models and tasks
# the papers' experiments, reports, files
from . import experiments as experiments

# to and from other tools
from . import interop as interop

# find neurons
from .attribution import attribute as attribute
from .attribution import stability as stability

# compare tasks and models, layer by layer
from .comparison import similarity as similarity
from .comparison.correlation import correlate as correlate
from .comparison.hidden_states import Representations as Representations
from .comparison.hidden_states import representations as representations
from .comparison.layers import compare as compare
from .comparison.layers import dimensions as dimensions
from .comparison.maps import pca as pca
from .comparison.maps import tsne as tsne
from .comparison.parameters import parameter_similarity as parameter_similarity
from .comparison.segmentation import segment as segment
from .errors import NeuroscopeError as NeuroscopeError
from .evaluation import evaluate as evaluate
from .evaluation import generate as generate
from .evaluation import neutral_loss as neutral_loss
from .experiments.benchmarking import benchmark as benchmark
from .experiments.comparing_methods import compare_methods as compare_methods
from .experiments.dose_sweep import dose as dose
from .experiments.f5_cross_ablation import cross_ablation as cross_ablation
from .experiments.mask_sizes import faithfulness as faithfulness

# change them, and see what breaks
from .interventions import ablate as ablate
from .interventions import add as add
from .interventions import between as between
from .interventions import patch as patch
from .interventions import patch_sweep as patch_sweep
from .interventions import scale as scale
from .masks import NeuronMask as NeuronMask
from .masks import Scores as Scores
from .masks import load_mask as load_mask
from .masks import overlap as overlap
from .masks import overlap_sweep as overlap_sweep
from .models import Model as Model
from .models import load as load
from .reading import activations as activations
from .reading import directions as directions
from .reading import neuron_statistics as neuron_statistics
from .reading import neurons as neurons

# read them
from .removal import PrunedModel as PrunedModel
from .removal import prune as prune
from .reports.explorer.exploring import explore as explore
from .reports.main_job import run as run
from .reports.page import write_report as write_report
from .reports.reproduction import reproduce as reproduce
from .results import load_result as load_result
from .tasks import Example as Example
from .tasks import Task as Task
from .tasks import load_tasks as load_tasks

# train them
from .training import NeuronAdapter as NeuronAdapter
from .training import NeuronTrainerMixin as NeuronTrainerMixin
from .training import Recipe as Recipe
from .training import finetune as finetune
from .training.continual_learning import Continual as Continual
from .training.continual_learning import continual as continual
