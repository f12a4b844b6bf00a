"""Fine-tune only a mask's neurons (NCFT, LX24 §4.2), on Hugging Face's Trainer.

1. The tasks' training examples are encoded as prompt, answer and end-of-text token; the last two are scored.
2. A `NeuronAdapter` on the mask's neurons is what the optimizer sees; `mask=None` trains every parameter instead.
3. A fraction of the examples, held out, can stop the training early; the best state is kept.
"""

from __future__ import annotations

import contextlib
import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from transformers import EarlyStoppingCallback, PrinterCallback, TrainingArguments

from neuroscope import files
from neuroscope.checks import Progress, public
from neuroscope.distributed import gathered
from neuroscope.errors import ArgumentError, FileError, NumericalError
from neuroscope.masks import NeuronMask
from neuroscope.models import Model, resolve
from neuroscope.tasks.prompts import Encoded, encode, pad_id
from neuroscope.tasks.task import Task, tasks_of
from neuroscope.tasks.tokens import tokenizer_of
from neuroscope.training.adapter import NeuronAdapter
from neuroscope.training.processes import check_shards, divide, shards_elsewhere
from neuroscope.training.recipe import LR, Recipe
from neuroscope.training.trainer import (
    NeuronTrainer,
    Watch,
    collate,
    is_complete,
    last_checkpoint,
    refuse_other_run,
    untouched,
)
from neuroscope.training.whole import WholeModel

Tasks = Task | Sequence[Task] | Mapping[str, Task]
LOGS, CHECKS = 50, 10  # per run: entries of the loss curve; checkpoints and judgements of the held-out examples


class Trainable(Protocol):
    """A handle on what is trained: a `NeuronAdapter`, a `WholeModel`, or LoRA."""

    model: Model
    base: str
    manifest: dict[str, Any]

    @property
    def identity(self) -> str | None:
        """What tells it from another handle of its kind on the same base."""

    @property
    def n_parameters(self) -> int:
        """How many numbers are trained."""

    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters."""

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """A scope in which they alone require gradients."""

    def save(self, path: str | PathLike) -> Path:
        """Write them to a file."""

    def restore(self, path: str | PathLike) -> None:
        """Read them back."""

    def detach(self) -> None:
        """Leave the base as it was."""


@public
def finetune(
    model: Any,
    tasks: Tasks,
    mask: NeuronMask | Literal["ffn"] | None,
    *,
    seed: int = 0,
    output: str | PathLike | None = None,
    resume_from_checkpoint: bool | str | PathLike = False,
    progress: Progress | None = None,
    steps: int | None = None,
    epochs: float = 3,
    lr: float = LR,
    batch_size: int = 16,
    weight_decay: float = 0.0,
    dev: float = 0.0,
    patience: int = 3,
    every: int | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> NeuronAdapter | WholeModel:
    """Fine-tune a mask's neurons on one or several tasks, and nothing else.

    Started by torchrun or `accelerate launch`, the processes share each batch (DDP), or the model too (FSDP2, with
    `arguments={"fsdp": True}`: then the model stays sharded, and every process must call `save`, `merge` and the like).

    Args:
        model: anything that can be opened, with parameters of its own.
        tasks: whose training examples to learn, mixed.
        mask: hidden neurons or output units; "ffn": all hidden neurons; None: every parameter of the model.
        seed: of dropout, of the order of the examples, and of the choice of those held out.
        output: folder for checkpoints, which hold what is trained and the optimizer's state; none are kept if None.
        resume_from_checkpoint: a checkpoint's folder, or True for the latest complete one in `output`, if there is any.
            The rest of the run equals the uninterrupted one, given the same arguments.
        progress: called as `progress(steps, desc=...)`, such as tqdm; None is silent.
        steps, epochs, batch_size, weight_decay, dev, patience, every: as in `Recipe`.
        lr: the peak learning rate. An adapter wants one several times higher than the whole model.
        arguments: further `transformers.TrainingArguments` by name, such as `{"optim": "sgd", "warmup_steps": 100,
            "gradient_accumulation_steps": 4, "lr_scheduler_type": "cosine", "activation_checkpointing": True}`.

    Returns:
        The adapter, live on the model; `.manifest["history"]` has the losses. For `mask=None`, a `WholeModel`: the
        model has the trained weights, and `.unmerge()` puts the base's back.

    Raises:
        TaskError: a task has no training examples, or one that does not fit the model's context.
        MaskError: the mask is of a model of another shape, or empty. (A mask may be used on a fine-tuned model: the
            weights it was found on are not compared.)
        ModelError: the model's parameters cannot be trained here; the text says why.
        FileError: a checkpoint that is damaged, or of another run.
        NumericalError: the training diverged; the model is as it was before.
    """
    model = resolve(model)
    recipe = Recipe(steps, epochs, lr, batch_size, weight_decay, dev, patience, every, arguments or {})
    named = tasks_of(tasks, f"finetune {model.name}")
    for task in named.values():
        task.split("train")
    adapter = WholeModel(model) if mask is None else NeuronAdapter(model, every_ffn(model) if mask == "ffn" else mask)
    train(
        adapter, named, recipe, seed=seed, output=output, resume_from_checkpoint=resume_from_checkpoint,
        progress=progress,
    )  # fmt: skip
    return adapter


@public
def train(
    adapter: Trainable,
    tasks: Tasks,
    recipe: Recipe | Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    output: str | PathLike | None = None,
    resume_from_checkpoint: bool | str | PathLike = False,
    progress: Progress | None = None,
    penalty: Callable[[], Tensor] | None = None,
) -> None:
    """Train what a handle holds, in place; what `finetune` does once it has made the handle.

    Args:
        adapter: a `NeuronAdapter`, a `LoraAdapter` or a `WholeModel`; detached if the training fails.
        recipe: a `Recipe`, or a mapping of those of its values that are to differ from the defaults.
        penalty: a scalar that is added to the loss of every step.
        tasks, seed, output, resume_from_checkpoint, progress: as in `finetune`.
    """
    model = adapter.model
    asked = f"finetune {model.name}"
    try:
        recipe, named = Recipe.of(recipe, lr=LR), tasks_of(tasks, asked)
        if seed >= 2**32:
            raise ArgumentError(f"{asked} with seed={seed}", "too large", "give a whole number from 0 to 2**32 - 1")
        learnt, held_out = _split([item for task in named.values() for item in _encoded(model, task)], recipe.dev, seed)
        run = {
            "base": adapter.base,
            "mask": adapter.identity,
            "tasks": [task.data_hash for task in named.values()],
            "settings": recipe.settings() | {"seed": seed},
        }
        checkpoint = _checkpoint(resume_from_checkpoint, output, run)
        with untouched(model.root), contextlib.ExitStack() as stack:
            folder = output
            if output is None and held_out:  # the best state is kept there meanwhile
                folder = stack.enter_context(tempfile.TemporaryDirectory())
            arguments = _arguments(recipe, seed, folder, len(learnt), bool(held_out), model)
            divide(arguments, recipe, asked)
            if isinstance(adapter, NeuronAdapter) and "ddp_find_unused_parameters" not in recipe.arguments:
                arguments.ddp_find_unused_parameters = False  # every delta is used in every pass
            callbacks: list[Any] = [EarlyStoppingCallback(recipe.patience)] if held_out else []
            if progress is not None:
                callbacks.append(Watch(progress))
            trainer = NeuronTrainer(
                adapter=adapter,
                run=run,
                penalty=penalty,
                model=model.root,
                args=arguments,
                train_dataset=learnt,
                eval_dataset=held_out or None,
                data_collator=partial(collate, pad=pad_id(tokenizer_of(model)), style=model.style),
                callbacks=callbacks,
            )
            check_shards(trainer, recipe, asked)
            trainer.remove_callback(PrinterCallback)  # the library never prints
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
            trainer.accelerator.wait_for_everyone()  # before a folder of one is taken away
            history = [entry for entry in trainer.state.log_history if "loss" in entry or "eval_loss" in entry]
        if not all(bool(torch.isfinite(gathered(p)).all()) for p in adapter.parameters()):
            raise NumericalError(asked, "trained numbers that are not finite", f"give a lower lr than {recipe.lr}")
    except BaseException:
        adapter.detach()
        raise
    adapter.manifest |= {
        "tasks": list(named),
        "run": run,
        "examples": len(learnt),
        "held_out": len(held_out),
        "trained": adapter.n_parameters,
        "history": history,
        "versions": files.versions(),
    }


def _encoded(model: Model, task: Task) -> list[Encoded]:
    # a masked model answers at mask tokens, as many as the answer has: there is no end to learn
    return encode(model, task, task.split("train"), end=model.style != "masked")


def _split(encoded: list[Encoded], dev: float, seed: int) -> tuple[list[Encoded], list[Encoded]]:
    """Examples to learn from, and held-out ones; at least one each where any are to be held out."""
    if dev == 0:
        return encoded, []
    if len(encoded) < 2:
        raise ArgumentError(f"dev={dev}", f"{len(encoded)} training example", "give more examples, or dev=0")
    order = random.Random(seed).sample(range(len(encoded)), len(encoded))
    cut = min(max(1, round(dev * len(encoded))), len(encoded) - 1)
    return [encoded[i] for i in sorted(order[cut:])], [encoded[i] for i in sorted(order[:cut])]


def every_ffn(model: Model) -> NeuronMask:
    """All hidden neurons of a model."""
    widths = {a: s.width for a, s in model.sites("hidden").items()}
    return NeuronMask({a: torch.arange(w) for a, w in widths.items()}, widths, "hidden", {"selection": "ffn"})


def _checkpoint(wanted: bool | str | PathLike, output: str | PathLike | None, run: Mapping[str, Any]) -> Path | None:
    if wanted is False:
        if output is not None and last_checkpoint(output) is not None:
            do = "give resume_from_checkpoint=True to go on with it, or another folder"
            raise FileError(f"start a run in {output}", "checkpoints of an earlier run", do)
        return None
    if not isinstance(wanted, (bool, str, PathLike)):
        raise ArgumentError(
            f"resume_from_checkpoint={wanted!r}", f"a {type(wanted).__name__}", "give a folder, or True"
        )
    if wanted is True and output is None:
        raise ArgumentError("resume_from_checkpoint=True", "output=None", "give the run's output folder")
    path = last_checkpoint(output or "") if wanted is True else Path(wanted)
    if path is None:
        return None
    if not is_complete(path):
        raise FileError(f"resume from {path}", "no complete checkpoint", "give a checkpoint's folder, or True")
    refuse_other_run(path, run)  # before anything of it is read
    return path


def _arguments(
    recipe: Recipe, seed: int, folder: str | PathLike | None, examples: int, has_held_out: bool, model: Model
) -> TrainingArguments:
    total = recipe.steps if recipe.steps is not None else -(-examples // recipe.batch_size) * recipe.epochs
    every = recipe.every or max(1, int(total) // CHECKS)
    values: dict[str, Any] = {
        "output_dir": str(folder) if folder is not None else tempfile.gettempdir(),  # nothing is written there
        "max_steps": recipe.steps if recipe.steps is not None else -1,
        "num_train_epochs": recipe.epochs,
        "learning_rate": recipe.lr,
        "per_device_train_batch_size": recipe.batch_size,
        "per_device_eval_batch_size": recipe.batch_size,
        "weight_decay": recipe.weight_decay,
        "seed": seed,
        "optim": "adamw_torch",
        "logging_steps": max(1, every * CHECKS // LOGS),
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
