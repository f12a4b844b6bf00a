"""Hugging Face's Trainer for an adapter: checkpoints hold what is trained, and nothing else is trained."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import pickle
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import Trainer, TrainerCallback
from transformers.utils import logging

from neuroscope import files
from neuroscope.checks import Progress, watched
from neuroscope.distributed import has_shards
from neuroscope.errors import FileError
from neuroscope.models.head import head_at
from neuroscope.models.passes import telling
from neuroscope.models.running import fitting, logits_of
from neuroscope.tasks.encoding import UNSCORED, Encoded, batches
from neuroscope.training.checkpoints import RUN, WEIGHTS, refuse_other_run
from neuroscope.training.processes import save_optimizer, weight_of


class NeuronTrainerMixin:
    """Put before a Trainer class, it makes that class train an adapter: `class T(NeuronTrainerMixin, Trainer): pass`.

    The model given to the trainer is the adapter's: `T(adapter=adapter, model=adapter.model.root, args=...)`. The
    optimizer gets the adapter's parameters alone. Weight decay pulls a delta towards zero, that is, the neurons towards
    the base model.

    Args:
        adapter: a `NeuronAdapter`, or a `WholeModel`.
        run: what tells this run from another; a checkpoint of another run is refused. It must survive JSON.
        penalty: called at every step of training; the scalar that it returns is added to the loss.

    Example:
        >>> import tempfile
        >>> import neuroscope as ns
        >>> from transformers import TrainingArguments
        >>> class AdapterTrainer(ns.NeuronTrainerMixin, Trainer):
        ...     pass
        >>> model = ns.load("mini")
        >>> adapter = ns.NeuronAdapter(model, ns.NeuronMask.of(["1.229"], model))
        >>> ids = model.tokenizer("sentiment the curry was good => yes")["input_ids"]
        >>> with tempfile.TemporaryDirectory() as folder:  # doctest: +ELLIPSIS
        ...     args = TrainingArguments(folder, max_steps=1, use_cpu=True, report_to="none", disable_tqdm=True)
        ...     data = [{"input_ids": ids, "labels": ids}]
        ...     trainer = AdapterTrainer(adapter=adapter, model=model.root, args=args, train_dataset=data)
        ...     done = trainer.train()
        {'train_runtime'...}
        >>> done.global_step, adapter.n_parameters, any(bool(p.any()) for p in adapter.parameters())
        (1, 384, True)
        >>> adapter.detach()
    """

    def __init__(
        self,
        *args: Any,
        adapter: Any,
        run: Mapping[str, Any] | None = None,
        penalty: Callable[[], Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        self.adapter = adapter
        self.run = dict(run or {})
        self.penalty = penalty
        self.flops_of_token: int | None = None
        super().__init__(*args, **kwargs)
        if adapter.model.style != "causal":  # T5, BERT and others take the number of tokens, but leave it out
            self.model_accepts_loss_kwargs = False

    def compute_loss(self, model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Trainer's own, with the penalty added in training."""
        if not model.training:
            return self._loss(model, *args, **kwargs)
        weight = weight_of(self, args[0] if args else kwargs["inputs"])
        loss = weight * self._loss(model, *args, **kwargs)
        if self.penalty is None:
            return loss
        # the loss of a part of an accumulated batch is divided by their number here, or was before
        parts = self.current_gradient_accumulation_steps if self._is_scaled(kwargs) else 1  # type: ignore[attr-defined]
        return loss + self.penalty() / parts

    def _loss(self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, **kwargs: Any) -> Any:
        """Trainer's own, or that of a module of one's own, whose forward takes no labels."""
        parameters = inspect.signature(self.adapter.model.base.forward).parameters.values()
        if any(p.name == "labels" or p.kind is p.VAR_KEYWORD for p in parameters):
            return super().compute_loss(model, inputs, return_outputs, **kwargs)  # type: ignore[misc]
        given = {name: ids for name, ids in inputs.items() if name != "labels"}
        outputs = model(**fitting(self.adapter.model.base, given))
        loss = answer_loss(outputs, inputs["labels"])
        return (loss, outputs) if return_outputs else loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Trainer's own estimate, for which parameters are counted at the first step and not at every one."""
        tokens = inputs["input_ids"].numel() if "input_ids" in inputs else 0
        if not tokens:
            return super().floating_point_ops(inputs)  # type: ignore[misc]
        if self.flops_of_token is None:
            self.flops_of_token = super().floating_point_ops(inputs) // tokens  # type: ignore[misc]
        return self.flops_of_token * tokens

    def _is_scaled(self, keywords: Mapping[str, Any]) -> bool:
        return self.model_accepts_loss_kwargs and keywords.get("num_items_in_batch") is not None

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trainer's own `train`, with everything but the adapter frozen meanwhile."""
        try:
            # whatever the caller's mode
            with self.adapter.alone(), torch.inference_mode(False), torch.enable_grad():
                return super().train(*args, **kwargs)  # type: ignore[misc]
        finally:
            self.adapter.model.weights_changed()

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Trainer's own, over what requires gradients: the adapter's parameters."""
        # transformers makes the embeddings require gradients for checkpointing, which only its reentrant kind needs:
        # without it, the backward pass ends at the lowest trained layer
        root, args_ = self.model, self.args  # type: ignore[attr-defined]
        settings = getattr(args_, "activation_checkpointing_kwargs", None) or args_.gradient_checkpointing_kwargs or {}
        if _is_checkpointing(root) and not settings.get("use_reentrant"):
            root.disable_input_require_grads()
        return super().create_optimizer(*args, **kwargs)  # type: ignore[misc]

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = Path(output_dir if output_dir is not None else self.args.output_dir)  # type: ignore[attr-defined]
        should_save = self.args.should_save  # type: ignore[attr-defined]
        if should_save or has_shards(self.adapter.model.root):  # shards are gathered from all processes
            self.adapter.save(folder / WEIGHTS)
        if should_save:
            files.write(folder / RUN, json.dumps(self.run, indent=1))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Trainer's own, but that a sharded model is not gathered for it."""
        if has_shards(self.adapter.model.root):
            self._save(output_dir)
        else:
            super().save_model(output_dir, _internal_call)  # type: ignore[misc]

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if has_shards(self.adapter.model.root):
            save_optimizer(self, output_dir)
        else:
            super()._save_optimizer_and_scheduler(output_dir)  # type: ignore[misc]

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        refuse_other_run(resume_from_checkpoint, self.run)
        self.adapter.restore(Path(resume_from_checkpoint) / WEIGHTS)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        try:
            super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
            do = "delete this checkpoint, to go on from the one before it"
            raise FileError(
                f"resume from {checkpoint}", f"a damaged optimizer state: {str(error)[:200]}", do
            ) from error

    def _load_best_model(self) -> None:
        self.adapter.restore(Path(self.state.best_model_checkpoint) / WEIGHTS)  # type: ignore[attr-defined]


class NeuronTrainer(NeuronTrainerMixin, Trainer):
    """The Trainer that `finetune` uses: of a causal model, logits are made where a token is scored and nowhere else.

    Nothing of that where the loss has parts of its own, such as a router's, or is smoothed.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        model = self.adapter.model
        has_own_parts = getattr(getattr(model.base, "config", None), "output_router_logits", False)
        if model.style == "causal" and self.label_smoother is None and not has_own_parts:
            self.compute_loss_func = answer_loss

    def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        """The mixin's, with the output head at scored positions."""
        if self.compute_loss_func is not answer_loss:
            return super().compute_loss(model, inputs, *args, **kwargs)
        at = functional.pad(inputs["labels"][:, 1:] != UNSCORED, (0, 1))
        with head_at(self.adapter.model.base, at), telling(inputs.get("attention_mask"), at):
            return super().compute_loss(model, inputs, *args, **kwargs)


def answer_loss(outputs: Any, labels: Int[Tensor, "row pos"], num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """Cross-entropy of the answers' tokens [nats], of logits at all positions, or at those before scored ones alone.

    The mean over the tokens, or over `num_items_in_batch` of them where this is a part of a batch.
    """
    logits, at = logits_of(outputs), labels[:, 1:] != UNSCORED
    targets = labels[:, 1:][at]
    wanted = logits[0] if logits.shape[:2] == (1, len(targets)) else logits[:, :-1][at]
    total = functional.cross_entropy(wanted.float(), targets.to(wanted.device), reduction="sum")
    return total / (len(targets) if num_items_in_batch is None else num_items_in_batch)


def collate(items: list[Encoded], pad: int, style: str) -> dict[str, Tensor]:
    """A batch in Hugging Face's form, padded on the right: the answer's tokens are the labels, all others are -100.

    Causal models shift labels themselves, so that a label stands at its own token and the last one is an input too.
    """
    if style == "causal":
        items = [Encoded(item.inputs + item.answer[-1:], item.answer, item.first) for item in items]
    batch = next(batches(items, len(items), pad, "cpu", style))
    labels = batch.targets
    if style == "causal":
        labels = labels.roll(1, dims=1)
        labels[:, 0] = UNSCORED
    return {**batch.inputs, "labels": labels}


class Watch(TrainerCallback):
    """Drives a progress hook, which takes an iterable, from a loop that is not the caller's."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.steps: Iterator[Any] = iter(())

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the bar over the steps that are left."""
        self.steps = iter(watched(range(state.max_steps - state.global_step), self.progress, "fine-tune"))
        next(self.steps, None)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """One step further."""
        next(self.steps, None)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the bar, also where training stopped early."""
        if hasattr(self.steps, "close"):
            self.steps.close()


@contextlib.contextmanager
def untouched(root: Any) -> Iterator[None]:
    """A scope after which nothing of the training is left behind but the trained numbers.

    Restored: the global random generators, modes, hooks, gradients, `use_cache`, activation checkpointing, attributes
    that accelerate gave the model, transformers' verbosity, and the environment variables.
    """
    modes = [(m, m.training) for m in root.modules()]
    # by name: FSDP puts other parameters in the place of these, which nothing may keep alive
    gradients = {name: p.grad for name, p in root.named_parameters() if p.grad is not None}
    attributes, use_cache = dict(vars(root)), getattr(getattr(root, "config", None), "use_cache", None)
    verbosity, has_checkpointing = logging.get_verbosity(), _is_checkpointing(root)
    generators, environment = (random.getstate(), np.random.get_state()), dict(os.environ)  # noqa: NPY002
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(generators[0])
        np.random.set_state(generators[1])  # noqa: NPY002
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        logging.set_verbosity(verbosity)
        if _is_checkpointing(root) and not has_checkpointing:
            _stop_checkpointing(root)
        for name in vars(root).keys() - attributes.keys():
            delattr(root, name)
        vars(root).update(attributes)
        if use_cache is not None:
            root.config.use_cache = use_cache
        for module, mode in modes:
            module.training = mode
        for name, parameter in root.named_parameters():
            parameter.grad = gradients.get(name)


def _is_checkpointing(root: Any) -> bool:
    """Whether activations are recomputed in the backward pass; transformers is about to rename it."""
    name = "is_activation_checkpointing"
    return getattr(root, name if hasattr(root, name) else "is_gradient_checkpointing", False)


def _stop_checkpointing(root: Any) -> None:
    name = "activation_checkpointing_disable"
    getattr(root, name if hasattr(root, name) else "gradient_checkpointing_disable")()
    root.disable_input_require_grads()
