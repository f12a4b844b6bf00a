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
    from neuroscope.continual import Continual as Continual
    from neuroscope.continual import continual as continual
    from neuroscope.correlation import correlate as correlate
    from neuroscope.errors import NeuroscopeError as NeuroscopeError
    from neuroscope.evaluation import evaluate as evaluate
    from neuroscope.evidence import cross_ablation as cross_ablation
    from neuroscope.evidence import deactivation as deactivation
    from neuroscope.experiments.continual_learning import continual_learning as continual_learning
    from neuroscope.experiments.cross_training import cross_training as cross_training
    from neuroscope.experiments.layer_by_layer import layer_by_layer as layer_by_layer
    from neuroscope.experiments.overlap_controlled import overlap_controlled as overlap_controlled
    from neuroscope.experiments.parameter_depth import parameter_depth as parameter_depth
    from neuroscope.experiments.parameter_transfer import parameter_transfer as parameter_transfer
    from neuroscope.experiments.proportion_sweep import proportion_sweep as proportion_sweep
    from neuroscope.experiments.train_only import train_only as train_only
    from neuroscope.importers import load_lape as load_lape
    from neuroscope.importers import save_lape as save_lape
    from neuroscope.interventions import ablate as ablate
    from neuroscope.interventions import add as add
    from neuroscope.interventions import lens_hooks as lens_hooks
    from neuroscope.interventions import nnsight_code as nnsight_code
    from neuroscope.interventions import patch as patch
    from neuroscope.interventions import scale as scale
    from neuroscope.maps import pca as pca
    from neuroscope.maps import tsne as tsne
    from neuroscope.masks import NeuronMask as NeuronMask
    from neuroscope.masks import Scores as Scores
    from neuroscope.models import Model as Model
    from neuroscope.models import load as load
    from neuroscope.models import tap_experts as tap_experts
    from neuroscope.models import untap_experts as untap_experts
    from neuroscope.mossa import mossa as mossa
    from neuroscope.overlap import overlap as overlap
    from neuroscope.overlap import overlap_sweep as overlap_sweep
    from neuroscope.parameters import parameter_similarity as parameter_similarity
    from neuroscope.patching import patch_sweep as patch_sweep
    from neuroscope.pipeline import run as run
    from neuroscope.report import write_report as write_report
    from neuroscope.representations import Representations as Representations
    from neuroscope.representations import representations as representations
    from neuroscope.reproduce import reproduce as reproduce
    from neuroscope.results import load_result as load_result
    from neuroscope.segmentation import segment as segment
    from neuroscope.similarity import CKA as CKA
    from neuroscope.similarity import cka as cka
    from neuroscope.similarity import compare as compare
    from neuroscope.similarity import dimensions as dimensions
    from neuroscope.similarity import neighbour_overlap as neighbour_overlap
    from neuroscope.similarity import participation_ratio as participation_ratio
    from neuroscope.similarity import permutation_null as permutation_null
    from neuroscope.similarity import procrustes as procrustes
    from neuroscope.similarity import pwcca as pwcca
    from neuroscope.similarity import svcca as svcca
    from neuroscope.similarity import two_nn as two_nn
    from neuroscope.similarity import variance_dimension as variance_dimension
    from neuroscope.tasks import Example as Example
    from neuroscope.tasks import Task as Task
    from neuroscope.tasks import load_tasks as load_tasks
    from neuroscope.training import NeuronAdapter as NeuronAdapter
    from neuroscope.training import NeuronTrainerMixin as NeuronTrainerMixin
    from neuroscope.training import finetune as finetune

__version__ = "0.1.0"

HOME = {
    "CKA": "similarity",
    "Continual": "continual",
    "Example": "tasks",
    "Model": "models",
    "NeuronAdapter": "training",
    "NeuronMask": "masks",
    "NeuronTrainerMixin": "training",
    "NeuroscopeError": "errors",
    "Representations": "representations",
    "Scores": "masks",
    "Task": "tasks",
    "ablate": "interventions",
    "add": "interventions",
    "attribute": "attribution",
    "cka": "similarity",
    "compare": "similarity",
    "continual": "continual",
    "continual_learning": "experiments",
    "correlate": "correlation",
    "cross_ablation": "evidence",
    "cross_training": "experiments",
    "deactivation": "evidence",
    "dimensions": "similarity",
    "evaluate": "evaluation",
    "finetune": "training",
    "layer_by_layer": "experiments",
    "lens_hooks": "interventions",
    "load": "models",
    "load_lape": "importers",
    "load_result": "results",
    "load_tasks": "tasks",
    "mossa": "mossa",
    "neighbour_overlap": "similarity",
    "nnsight_code": "interventions",
    "overlap": "overlap",
    "overlap_controlled": "experiments",
    "overlap_sweep": "overlap",
    "parameter_depth": "experiments",
    "parameter_similarity": "parameters",
    "parameter_transfer": "experiments",
    "participation_ratio": "similarity",
    "patch": "interventions",
    "patch_sweep": "patching",
    "pca": "maps",
    "permutation_null": "similarity",
    "procrustes": "similarity",
    "proportion_sweep": "experiments",
    "pwcca": "similarity",
    "representations": "representations",
    "reproduce": "reproduce",
    "run": "pipeline",
    "save_lape": "importers",
    "scale": "interventions",
    "segment": "segmentation",
    "svcca": "similarity",
    "tap_experts": "models",
    "train_only": "experiments",
    "tsne": "maps",
    "two_nn": "similarity",
    "untap_experts": "models",
    "variance_dimension": "similarity",
    "write_report": "report",
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
