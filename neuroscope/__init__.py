"""neuroscope: which neurons does a task use, are they its own, and what happens without them?

    import neuroscope as ns

    model = ns.load("mini")
    tasks = ns.load_tasks("mini")
    mask = ns.attribute(model, tasks["sentiment-food"]).top(0.10)
    with ns.ablate(model, mask):
        ns.evaluate(model, tasks["sentiment-food"])

Names are imported when they are first used, so that `import neuroscope` costs nothing.
"""

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neuroscope.attribution import attribute as attribute
    from neuroscope.comparison.correlation import correlate as correlate
    from neuroscope.comparison.hidden_states import Representations as Representations
    from neuroscope.comparison.hidden_states import representations as representations
    from neuroscope.comparison.maps import pca as pca
    from neuroscope.comparison.maps import tsne as tsne
    from neuroscope.comparison.parameters import parameter_similarity as parameter_similarity
    from neuroscope.comparison.segmentation import segment as segment
    from neuroscope.comparison.similarity import CKA as CKA
    from neuroscope.comparison.similarity import cka as cka
    from neuroscope.comparison.similarity import compare as compare
    from neuroscope.comparison.similarity import dimensions as dimensions
    from neuroscope.comparison.similarity import neighbour_overlap as neighbour_overlap
    from neuroscope.comparison.similarity import participation_ratio as participation_ratio
    from neuroscope.comparison.similarity import permutation_null as permutation_null
    from neuroscope.comparison.similarity import procrustes as procrustes
    from neuroscope.comparison.similarity import pwcca as pwcca
    from neuroscope.comparison.similarity import svcca as svcca
    from neuroscope.comparison.similarity import two_nn as two_nn
    from neuroscope.comparison.similarity import variance_dimension as variance_dimension
    from neuroscope.errors import NeuroscopeError as NeuroscopeError
    from neuroscope.evaluation import evaluate as evaluate
    from neuroscope.experiments.evidence import cross_ablation as cross_ablation
    from neuroscope.experiments.evidence import deactivation as deactivation
    from neuroscope.experiments.f2_proportion_sweep import proportion_sweep as proportion_sweep
    from neuroscope.experiments.f3_parameter_depth import parameter_depth as parameter_depth
    from neuroscope.experiments.f5_cross_training import cross_training as cross_training
    from neuroscope.experiments.layer_by_layer.mossa_run import mossa as mossa
    from neuroscope.experiments.layer_by_layer.one_figure import layer_by_layer as layer_by_layer
    from neuroscope.experiments.t2_train_only import train_only as train_only
    from neuroscope.experiments.t4_parameter_transfer import parameter_transfer as parameter_transfer
    from neuroscope.experiments.t5_continual_comparison import continual_learning as continual_learning
    from neuroscope.experiments.t9_overlap_controlled import overlap_controlled as overlap_controlled
    from neuroscope.interop.lape import load_lape as load_lape
    from neuroscope.interop.lape import save_lape as save_lape
    from neuroscope.interventions import ablate as ablate
    from neuroscope.interventions import add as add
    from neuroscope.interventions import lens_hooks as lens_hooks
    from neuroscope.interventions import nnsight_code as nnsight_code
    from neuroscope.interventions import patch as patch
    from neuroscope.interventions import scale as scale
    from neuroscope.interventions.patch_grid import patch_sweep as patch_sweep
    from neuroscope.masks import NeuronMask as NeuronMask
    from neuroscope.masks import Scores as Scores
    from neuroscope.masks.jaccard import overlap as overlap
    from neuroscope.masks.jaccard import overlap_sweep as overlap_sweep
    from neuroscope.models import Model as Model
    from neuroscope.models import load as load
    from neuroscope.models import tap_experts as tap_experts
    from neuroscope.models import untap_experts as untap_experts
    from neuroscope.reports.main_job import run as run
    from neuroscope.reports.page import write_report as write_report
    from neuroscope.reports.reproduction import reproduce as reproduce
    from neuroscope.results import load_result as load_result
    from neuroscope.tasks import Example as Example
    from neuroscope.tasks import Task as Task
    from neuroscope.tasks import load_tasks as load_tasks
    from neuroscope.training import NeuronAdapter as NeuronAdapter
    from neuroscope.training import NeuronTrainerMixin as NeuronTrainerMixin
    from neuroscope.training import finetune as finetune
    from neuroscope.training.continual_learning import Continual as Continual
    from neuroscope.training.continual_learning import continual as continual

__version__ = "0.1.0"

HOME = {
    "CKA": "comparison.similarity",
    "Continual": "training.continual_learning",
    "Example": "tasks",
    "Model": "models",
    "NeuronAdapter": "training",
    "NeuronMask": "masks",
    "NeuronTrainerMixin": "training",
    "NeuroscopeError": "errors",
    "Representations": "comparison.hidden_states",
    "Scores": "masks",
    "Task": "tasks",
    "ablate": "interventions",
    "add": "interventions",
    "attribute": "attribution",
    "cka": "comparison.similarity",
    "compare": "comparison.similarity",
    "continual": "training.continual_learning",
    "continual_learning": "experiments",
    "correlate": "comparison.correlation",
    "cross_ablation": "experiments.evidence",
    "cross_training": "experiments",
    "deactivation": "experiments.evidence",
    "dimensions": "comparison.similarity",
    "evaluate": "evaluation",
    "finetune": "training",
    "layer_by_layer": "experiments",
    "lens_hooks": "interventions",
    "load": "models",
    "load_lape": "interop",
    "load_result": "results",
    "load_tasks": "tasks",
    "mossa": "experiments.layer_by_layer",
    "neighbour_overlap": "comparison.similarity",
    "nnsight_code": "interventions",
    "overlap": "masks",
    "overlap_controlled": "experiments",
    "overlap_sweep": "masks",
    "parameter_depth": "experiments",
    "parameter_similarity": "comparison.parameters",
    "parameter_transfer": "experiments",
    "participation_ratio": "comparison.similarity",
    "patch": "interventions",
    "patch_sweep": "interventions",
    "pca": "comparison.maps",
    "permutation_null": "comparison.similarity",
    "procrustes": "comparison.similarity",
    "proportion_sweep": "experiments",
    "pwcca": "comparison.similarity",
    "representations": "comparison.hidden_states",
    "reproduce": "reports.reproduction",
    "run": "reports.main_job",
    "save_lape": "interop",
    "scale": "interventions",
    "segment": "comparison.segmentation",
    "svcca": "comparison.similarity",
    "tap_experts": "models",
    "train_only": "experiments",
    "tsne": "comparison.maps",
    "two_nn": "comparison.similarity",
    "untap_experts": "models",
    "variance_dimension": "comparison.similarity",
    "write_report": "reports.page",
}

__all__ = sorted(HOME)


class _Package(types.ModuleType):
    """Keeps `neuroscope.overlap` the function once the module of that name is imported, which would take its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in HOME and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in HOME:
        raise AttributeError(f"module 'neuroscope' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(f"neuroscope.{HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
