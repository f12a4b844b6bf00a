"""How well a model does a task, under whatever interventions are live."""

from neuroscope.evaluation.engine import Evaluation, Outcomes, Prepared, evaluate, judge, label_loglik, predict, prepare

__all__ = ["Evaluation", "Outcomes", "Prepared", "evaluate", "judge", "label_loglik", "predict", "prepare"]
