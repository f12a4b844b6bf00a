"""Fine-tune only a mask's neurons (NCFT, LX24 §4.2), on Hugging Face's Trainer.

1. The tasks' training examples are encoded as prompt, answer and end-of-text token; the last two are scored.
2. A `NeuronAdapter` on the mask's neurons is what the optimizer sees; `mask=None` trains every parameter instead.
3. A fraction of the examples, held out, can stop the training early; the best state is kept.
"""

from __future__ import annotations

import random
import tempfile
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from os import PathLike
from typing import Any

import torch
from torch import Tensor
from transformers import EarlyStoppingCallback, PrinterCallback

from neuroscope import files
from neuroscope.checks import Progress, public
from neuroscope.distributed import gathered
from neuroscope.errors import ArgumentError, NumericalError
from neuroscope.masks import NeuronMask
from neuroscope.models import Model, resolve
from neuroscope.models.fingerprints import tokenizer_digest
from neuroscope.tasks import Task, Tasks, tasks_of
from neuroscope.tasks.encoding import Encoded, encode, pad_id
from neuroscope.tasks.prompts import fitting, hash_of, how_asked
from neuroscope.tasks.tokens import tokenizer_of
from neuroscope.training.adapted import WHOLE, carried_by, note_trained
from neuroscope.training.adapter import NeuronAdapter
from neuroscope.training.arguments import training_arguments
from neuroscope.training.checkpoints import checkpoint_of
from neuroscope.training.processes import check_shards, divide, on_its_own, wants_shards
from neuroscope.training.recipe import FINETUNE_LR, Recipe
from neuroscope.training.stuck_loss import FALL, StuckLoss, is_stuck
from neuroscope.training.trainable import Trainable
from neuroscope.training.trainer import NeuronTrainer, Watch, collate, untouched
from neuroscope.training.whole_model import WholeModel


@public
def finetune(
    model: Any,
    tasks: Tasks,
    mask: Any,
    *,
    seed: int = 0,
    output: str | PathLike | None = None,
    resume_from_checkpoint: bool | str | PathLike = False,
    progress: Progress | None = None,
    steps: int | None = None,
    epochs: float = 3,
    lr: float = FINETUNE_LR,
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
        model: anything that can be opened, with parameters of its own. On one that has an adapter already, the new one
            is trained on top of it, with a warning unless that is merged. So is a whole model that was trained before.
        tasks: whose training examples to learn, mixed.
        mask: hidden neurons or output units, a NeuronMask or written by hand (`NeuronMask.of`); "ffn": all hidden
            neurons; None: every parameter of the model.
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
        The adapter, live on the model; `.manifest["history"]` has the losses, with "stuck" at the last one if they did
        not fall (`training.stuck_loss` has the rule; `.manifest["stuck"]` is None where it cannot tell), and
        `.manifest["on"]` what the model carried before. For `mask=None`, a `WholeModel`: the model has the trained
        weights, and `.unmerge()` puts the base's back.

    Raises:
        TaskError: a task has no training examples, or one that does not fit the model's context.
        MaskError: the mask is of a model of another shape, or empty. (A mask may be used on a fine-tuned model: the
            weights it was found on are not compared.)
        ModelError: the model's parameters cannot be trained here; the text says why.
        FileError: a checkpoint that is damaged, or of another run.
        NumericalError: the training diverged; the model is as it was before.

    Example:
        >>> import neuroscope as ns
        >>> model, task = ns.load("mini"), ns.load_tasks("mini-sequence", train=16, discovery=4, test=16)["praise"]
        >>> mask = ns.NeuronMask.of({1: range(200), 2: range(200)}, model)
        >>> before = ns.evaluate(model, task).score
        >>> adapter = ns.finetune(model, task, mask, steps=8, lr=1e-2)
        >>> adapter.n_parameters, ns.evaluate(model, task).score > before
        (153600, True)
        >>> adapter.detach()  # the model is as it was
    """
    model = resolve(model)
    recipe = Recipe(steps, epochs, lr, batch_size, weight_decay, dev, patience, every, arguments or {})
    named = tasks_of(tasks, f"finetune {model.name}")
    for task in named.values():
        task.split("train")
    before = carried_by(model)
    adapter = (
        WholeModel(model)
        if mask is None
        else NeuronAdapter(model, every_ffn(model) if isinstance(mask, str) and mask == "ffn" else mask)
    )
    try:
        if before.live:
            text = f"{model.name} has {before.live} on it, and this one is trained on top; detach() that to train anew"
            warnings.warn(text, stacklevel=3)
        if before.trained == WHOLE:
            text = (
                f"{model.name} was fine-tuned before, and is trained further; unmerge() or detach() that to train anew"
            )
            warnings.warn(text, stacklevel=3)
        train(
            adapter, named, recipe, seed=seed, output=output, resume_from_checkpoint=resume_from_checkpoint,
            progress=progress,
        )  # fmt: skip
        adapter.manifest["on"] = before.words(model.name)
        if adapter.manifest["stuck"]:
            text = f"the loss is stuck: from the first fifth of the steps to the last it did not fall by {FALL:.0%}"
            warnings.warn(f"{text}; try another lr than {recipe.lr:g}, or more steps", StuckLoss, stacklevel=3)
    except Warning:  # that was made an error: nobody gets the handle
        adapter.detach()
        raise
    if mask is None:
        note_trained(model, WHOLE)
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
        recipe, named = Recipe.of(recipe, lr=FINETUNE_LR), tasks_of(tasks, asked)
        if isinstance(adapter, WholeModel):
            adapter.widens = not wants_shards(recipe)
        by_task = {name: _encoded(model, task) for name, task in named.items()}
        encoded = [item for part, _ in by_task.values() for item in part]
        learnt, held_out = _split(encoded, recipe.dev, seed)
        run = {
            "base": adapter.base,
            "mask": adapter.identity,
            "tokenizer": tokenizer_digest(model.tokenizer),
            "tasks": [hash_of(model, task) for task in named.values()],
            "settings": recipe.settings() | {"seed": seed},
        }
        if recipe.arguments.get("dataloader_drop_last") and len(learnt) < recipe.batch_size:
            found = f"{len(learnt)} examples, less than a batch of {recipe.batch_size}, so that no step would be made"
            raise ArgumentError(asked, found, "give a smaller batch_size, or no dataloader_drop_last")
        checkpoint = checkpoint_of(resume_from_checkpoint, output, run)
        with untouched(model.root), on_its_own(model.device), tempfile.TemporaryDirectory() as meanwhile:
            folder = output or (meanwhile if held_out else None)  # the best state is kept there
            trainer = _trainer(adapter, recipe, seed, folder, learnt, held_out, run, penalty)
            if progress is not None:
                trainer.add_callback(Watch(progress))
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
            trainer.accelerator.wait_for_everyone()  # before a folder of one is taken away
            history: list[dict[str, Any]] = [
                entry for entry in trainer.state.log_history if "loss" in entry or "eval_loss" in entry
            ]
        if not all(bool(torch.isfinite(gathered(p)).all()) for p in adapter.parameters()):
            raise NumericalError(asked, "trained numbers that are not finite", f"give a lower lr than {recipe.lr}")
    except BaseException:
        adapter.detach()
        raise
    stuck = is_stuck([entry["loss"] for entry in history if "loss" in entry])
    if stuck:
        history[-1]["stuck"] = True
    adapter.manifest |= {
        "tasks": list(named),
        "run": run,
        "examples": len(learnt),
        "held_out": len(held_out),
        "trained": adapter.n_parameters,
        "history": history,
        "stuck": stuck,
        "asked": {name: asked for name, (_, asked) in by_task.items() if asked},
        "versions": files.versions(),
    }


def _trainer(
    adapter: Trainable,
    recipe: Recipe,
    seed: int,
    folder: str | PathLike | None,
    learnt: list[Encoded],
    held_out: list[Encoded],
    run: Mapping[str, Any],
    penalty: Callable[[], Tensor] | None,
) -> NeuronTrainer:
    model = adapter.model
    asked = f"finetune {model.name}"
    arguments = training_arguments(recipe, seed, folder, len(learnt), bool(held_out), model)
    divide(arguments, recipe, asked)
    if isinstance(adapter, NeuronAdapter) and "ddp_find_unused_parameters" not in recipe.arguments:
        arguments.ddp_find_unused_parameters = False  # every delta is used in every pass
    trainer = NeuronTrainer(
        adapter=adapter,
        run=run,
        penalty=penalty,
        model=model.root,
        args=arguments,
        train_dataset=learnt,
        eval_dataset=held_out or None,
        data_collator=partial(collate, pad=pad_id(tokenizer_of(model)), style=model.style),
        callbacks=[EarlyStoppingCallback(recipe.patience)] if held_out else [],
    )
    check_shards(trainer, recipe, asked)
    trainer.remove_callback(PrinterCallback)  # the library never prints
    return trainer


def _encoded(model: Model, task: Task) -> tuple[list[Encoded], dict[str, Any]]:
    """The training examples, and what a manifest says of how they are asked for."""
    given = task.split("train")
    kept = fitting(model, task, given)
    # a masked model answers at mask tokens, as many as the answer has: there is no end to learn
    encoded = encode(model, task, list(kept.values()), end=model.style != "masked")
    return encoded, how_asked(model, task, len(given), kept, (item.cut for item in encoded))


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
