"""How well a model does a task, under whatever interventions are live."""

from neuroscope.evaluation.constant import AT_CHANCE, CONSTANT, Constant, p_of_none, standing
from neuroscope.evaluation.engine import Outcomes, Prepared, judge, label_loglik, predict, prepare_task
from neuroscope.evaluation.evaluating import Evaluation, evaluate
from neuroscope.evaluation.generating import generate
from neuroscope.evaluation.neutral import NeutralLoss, losses_of, neutral_loss
from neuroscope.evaluation.neutral_texts import Neutral, prepare_neutral

__all__ = [
    "AT_CHANCE",
    "CONSTANT",
    "Constant",
    "Evaluation",
    "Neutral",
    "NeutralLoss",
    "Outcomes",
    "Prepared",
    "evaluate",
    "generate",
    "judge",
    "label_loglik",
    "losses_of",
    "neutral_loss",
    "p_of_none",
    "predict",
    "prepare_neutral",
    "prepare_task",
    "standing",
]
