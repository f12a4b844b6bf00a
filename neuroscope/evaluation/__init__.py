"""How well a model does a task, under whatever interventions are live."""

from neuroscope.evaluation.constant import AT_CHANCE, CONSTANT, Constant, p_of_none, standing
from neuroscope.evaluation.engine import Outcomes, Prepared, judge, label_loglik, predict, prepare_task
from neuroscope.evaluation.evaluating import Evaluation, evaluate

__all__ = [
    "AT_CHANCE",
    "CONSTANT",
    "Constant",
    "Evaluation",
    "Outcomes",
    "Prepared",
    "evaluate",
    "judge",
    "label_loglik",
    "p_of_none",
    "predict",
    "prepare_task",
    "standing",
]
