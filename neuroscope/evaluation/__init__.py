"""How well a model does a task, under whatever interventions are live."""

from neuroscope.evaluation.engine import Outcomes, Prepared, judge, label_loglik, predict, prepare_task
from neuroscope.evaluation.evaluating import Evaluation, evaluate

__all__ = ["Evaluation", "Outcomes", "Prepared", "evaluate", "judge", "label_loglik", "predict", "prepare_task"]
