"""Hugging Face's TrainingArguments, made of a recipe."""

from __future__ import annotations

import tempfile
from os import PathLike
from typing import Any

from transformers import TrainingArguments

from neuroscope.checks import whole
from neuroscope.errors import ArgumentError
from neuroscope.models import Model
from neuroscope.training.processes import shards_elsewhere
from neuroscope.training.recipe import Recipe

LOGS, CHECKS = 50, 10  # per run: entries of the loss curve; checkpoints and judgements of the held-out examples


def training_arguments(
    recipe: Recipe, seed: int, folder: str | PathLike | None, examples: int, has_held_out: bool, model: Model
) -> TrainingArguments:
    """What Trainer is told.

    Args:
        folder: for checkpoints; None: none are written.
        examples: how many to learn from.
        has_held_out: some are held out, to be judged every now and then.
    """
    parts = whole(recipe.arguments.get("gradient_accumulation_steps", 1), "gradient_accumulation_steps", 1)
    if "per_device_train_batch_size" not in recipe.arguments and recipe.batch_size % parts:
        asked = f"batch_size={recipe.batch_size} with gradient_accumulation_steps={parts}"
        do = f"give a multiple of {parts}: batch_size is of a whole step"
        raise ArgumentError(asked, "a batch that cannot be cut into equal parts", do)
    total = recipe.steps if recipe.steps is not None else -(-examples // recipe.batch_size) * recipe.epochs
    every = recipe.every or max(1, int(total) // CHECKS)
    values: dict[str, Any] = {
        "output_dir": str(folder) if folder is not None else tempfile.gettempdir(),  # nothing is written there
        "max_steps": recipe.steps if recipe.steps is not None else -1,
        "num_train_epochs": recipe.epochs,
        "learning_rate": recipe.lr,
        "per_device_train_batch_size": recipe.batch_size // parts,
        "per_device_eval_batch_size": recipe.batch_size,
        "weight_decay": recipe.weight_decay,
        "seed": seed,
        "optim": "adamw_torch",
        "logging_steps": max(1, int(total) // LOGS),
        "save_strategy": "no" if folder is None else "steps",
        "save_steps": every,
        "save_total_limit": 2,
        "eval_strategy": "steps" if has_held_out else "no",
        "eval_steps": every,
        "load_best_model_at_end": has_held_out,
        "metric_for_best_model": "eval_loss" if has_held_out else None,
        "prediction_loss_only": True,
        "label_names": ["labels"],
        "remove_unused_columns": False,
        "report_to": "none",
        "disable_tqdm": True,
        "log_level": "error",
        "use_cpu": model.device.type == "cpu" and not shards_elsewhere(recipe),
        "dataloader_pin_memory": model.device.type != "cpu",
    }
    if folder is None and str(recipe.arguments.get("save_strategy", "no")) not in ("no", "SaveStrategy.NO"):
        raise ArgumentError("arguments['save_strategy']", "output=None", "give a folder for checkpoints: output=...")
    try:
        return TrainingArguments(**values | dict(recipe.arguments))
    except (TypeError, ValueError) as error:
        asked, do = f"arguments={dict(recipe.arguments)}", "see transformers.TrainingArguments"
        raise ArgumentError(asked, str(error), do) from error
