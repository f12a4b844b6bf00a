"""Train neurons: the adapter, and fine-tuning on Hugging Face's Trainer."""

from neuroscope.training.adapter import NeuronAdapter
from neuroscope.training.finetuning import every_ffn, finetune, train
from neuroscope.training.lora import LoraAdapter
from neuroscope.training.recipe import Recipe
from neuroscope.training.trainable import Trainable
from neuroscope.training.trainer import NeuronTrainerMixin
from neuroscope.training.whole_model import WholeModel

__all__ = [
    "LoraAdapter",
    "NeuronAdapter",
    "NeuronTrainerMixin",
    "Recipe",
    "Trainable",
    "WholeModel",
    "every_ffn",
    "finetune",
    "train",
]
