"""Training in several processes, as torchrun or `accelerate launch` starts them.

1. DDP: every process has the whole model and trains on its part of each batch; only what is trained is all-reduced.
2. FSDP2: every process keeps a shard of each parameter, of the deltas too, and gathers a layer's when it is run.

Either way a run equals that of one process, but for rounding: `batch_size` is of all processes together, and a step's
loss is the mean over the answer tokens of all. Trainer fills an epoch's last batch up with the first examples.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from accelerate.state import AcceleratorState, PartialState  # type: ignore[import-untyped]
from torch import Tensor, distributed
from transformers import Trainer, TrainingArguments
from transformers.utils import logging

from neuroscope.distributed import is_apart
from neuroscope.errors import ArgumentError, ModelError
from neuroscope.training.recipe import Recipe

# by which launchers tell a process which one it is
PLACES = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"]
PLACES += [f"{launcher}_{of}" for launcher in ("PMI", "OMPI_COMM_WORLD", "MV2_COMM_WORLD") for of in ("RANK", "SIZE")]


@contextlib.contextmanager
def on_its_own(device: torch.device) -> Iterator[None]:
    """A scope in which Trainer takes this process for the only one, where it is `distributed.apart`.

    The caller restores the environment and the verbosity.
    """
    if not is_apart():
        yield
        return
    states = [(state._shared_state, dict(state._shared_state)) for state in (AcceleratorState, PartialState)]
    for name in PLACES:
        os.environ.pop(name, None)
    os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)
    logging.set_verbosity_error()  # transformers says that this process is not of the group
    try:
        yield
    finally:
        for shared, before in states:
            shared.clear()
            shared.update(before)


def wants_shards(recipe: Recipe) -> bool:
    """Whether FSDP is asked for, by the arguments or by `accelerate launch`."""
    return bool(recipe.arguments.get("fsdp")) or os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def shards_elsewhere(recipe: Recipe) -> bool:
    """Whether FSDP takes a model that is on the processor to the accelerators, shard by shard."""
    return wants_shards(recipe) and torch.accelerator.is_available()


def divide(arguments: TrainingArguments, recipe: Recipe, asked: str) -> None:
    """Give each process its part of a batch, in place, and all the first one's folder.

    Raises:
        ArgumentError: the batch cannot be cut into equal parts, or FSDP is asked for in one process.
    """
    processes, batch_size, parts = arguments.world_size, recipe.batch_size, arguments.gradient_accumulation_steps
    if is_apart() and arguments.device.type != "cpu":  # for a single process transformers takes the first one
        device = torch.device(os.environ["ACCELERATE_TORCH_DEVICE"])
        vars(arguments)["_setup_devices"] = device
        torch.accelerator.set_device_index(device)
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # else Trainer multiplies the batch by the devices in sight
    each = recipe.arguments.get("per_device_train_batch_size")
    if each is not None and each * parts * processes != batch_size:
        found = f"{each} per device, {parts} part(s) and {processes} process(es): {each * parts * processes} a step"
        raise ArgumentError(
            f"{asked} with batch_size={batch_size}", found, "give batch_size alone: it is of a whole step"
        )
    if processes == 1:
        if wants_shards(recipe):
            do = "start the script with `torchrun --nproc-per-node N` or `accelerate launch`"
            raise ArgumentError(f"{asked} with FSDP", "one process", do)
        return
    if "per_device_train_batch_size" not in recipe.arguments:
        if batch_size % (processes * parts):
            do = f"give a multiple of {processes * parts}: batch_size is of all processes together"
            found = f"{processes} processes" + f", {parts} parts each" * (parts > 1)
            raise ArgumentError(f"{asked} with batch_size={batch_size}", found, do)
        arguments.per_device_train_batch_size = batch_size // (processes * parts)
    if "per_device_eval_batch_size" not in recipe.arguments:
        arguments.per_device_eval_batch_size = -(-batch_size // processes)
    folder = [arguments.output_dir]
    distributed.broadcast_object_list(folder)
    arguments.output_dir = folder[0]


def check_shards(trainer: Trainer, recipe: Recipe, asked: str) -> None:
    """Refuse what FSDP cannot do, and where accelerate would silently leave it out.

    Raises:
        ModelError: FSDP on processors, or its first version.
    """
    if not wants_shards(recipe):
        return
    plugin = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    if plugin is None:
        found = f"{trainer.accelerator.distributed_type}, for which accelerate leaves FSDP out"
        raise ModelError(f"{asked} with FSDP", found, "train without it (only the deltas are all-reduced), or on GPUs")
    if plugin.fsdp_version != 2:
        do = 'give fsdp_config={"version": 2} or `accelerate launch --fsdp_version 2`'
        raise ModelError(f"{asked} with FSDP", "its first version, which flattens parameters", do)


def weight_of(trainer: Any, inputs: Mapping[str, Any]) -> Tensor | float:
    """By what to multiply this process's mean loss, so that the mean over processes is the mean over tokens.

    1 where Trainer sees to that itself: it can where the model's loss takes the number of tokens.
    """
    arguments = trainer.args
    if arguments.world_size == 1 or trainer.model_accepts_loss_kwargs or not arguments.average_tokens_across_devices:
        return 1.0
    tokens = (inputs["labels"] != -100).sum().to(arguments.device)
    return tokens * arguments.world_size / trainer.accelerator.gather(tokens).sum()


def save_optimizer(trainer: Any, folder: str) -> None:
    """What Trainer saves of an optimizer under FSDP, without the model, which it would gather and write as well."""
    from accelerate.utils import save_fsdp_optimizer  # type: ignore[import-untyped]
    from transformers.trainer import SCHEDULER_NAME

    plugin = trainer.accelerator.state.fsdp_plugin
    save_fsdp_optimizer(plugin, trainer.accelerator, trainer.optimizer, trainer.model, folder)
    if trainer.args.should_save:
        torch.save(trainer.lr_scheduler.state_dict(), os.path.join(folder, SCHEDULER_NAME))
