"""Recipe: how a model is trained, checked once when it is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from transformers import TrainingArguments

from neuroscope.checks import by_text, finite, public, whole
from neuroscope.errors import ArgumentError, kind_of, shown, suggest

FINETUNE_LR = 3e-4
NAMED = {  # TrainingArguments that have a name of their own here: given twice, the run's record would be wrong
    "output_dir": "output", "max_steps": "steps", "num_train_epochs": "epochs", "learning_rate": "lr",
    "weight_decay": "weight_decay", "seed": "seed",
}  # fmt: skip
PROCESS_WIDE = ("full_determinism", "tf32")  # TrainingArguments that set switches of torch for the whole process
ELSEWHERE = {  # TrainingArguments whose part something else has
    "disable_tqdm": "give progress=tqdm",
    "report_to": "read the losses in .manifest['history']",
    "push_to_hub": "export(folder), and upload that",
}
PLAIN = (bool, int, float, str, type(None))  # what JSON can say


@dataclass(frozen=True)
class Recipe:
    """How a model is trained: the keywords of `finetune` as one value.

    Attributes:
        steps: optimizer steps; None: as many as `epochs` takes.
        epochs: how often every training example is seen, where `steps` is None.
        lr: the peak learning rate; None: that of the function which trains.
        batch_size: examples per step of the optimizer, of all processes and of all `gradient_accumulation_steps`
            together.
        weight_decay: of AdamW. It pulls neurons and LoRAs towards the base model, and a whole model towards zero.
        dev: fraction of the training examples to hold out. Training stops early when their loss has not improved for
            `patience` judgements, and the best state is what is returned.
        patience: judgements of the held-out examples without improvement.
        every: steps between checkpoints, and between judgements of the held-out examples; None: a tenth of the run.
        arguments: further `transformers.TrainingArguments` by name.

    Raises:
        ArgumentError: a value out of range, or no TrainingArguments of such a name.

    Example:
        >>> recipe = Recipe.of({"steps": 100}, lr=1e-3)
        >>> recipe.steps, recipe.lr, Recipe.of(recipe, lr=5.0) == recipe
        (100, 0.001, True)
    """

    steps: int | None = None
    epochs: float = 3
    lr: float | None = None
    batch_size: int = 16
    weight_decay: float = 0.0
    dev: float = 0.0
    patience: int = 3
    every: int | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        values: dict[str, Any] = {
            "steps": None if self.steps is None else whole(self.steps, "steps", 1),
            "epochs": _number(self.epochs, "epochs", positive=True),
            "lr": None if self.lr is None else _number(self.lr, "lr", positive=True),
            "batch_size": whole(self.batch_size, "batch_size", 1),
            "weight_decay": _number(self.weight_decay, "weight_decay"),
            "dev": _number(self.dev, "dev"),
            "patience": whole(self.patience, "patience", 1),
            "every": None if self.every is None else whole(self.every, "every", 1),
            "arguments": _training_arguments(self.arguments),
        }
        if values["dev"] >= 1:
            raise ArgumentError(f"dev={self.dev!r}", "not a fraction", "give 0 <= dev < 1, such as 0.1")
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, recipe: Recipe | Mapping[str, Any] | None, **defaults: Any) -> Self:
        """A recipe from one, from a mapping of some of its values, or from nothing; `defaults` stand where it has None.

        Raises:
            ArgumentError: none of these, an unknown name, or a value out of range.
        """
        do = "give a Recipe, or a mapping such as {'steps': 200, 'lr': 1e-4}"
        given = vars(recipe) if isinstance(recipe, Recipe) else {} if recipe is None else recipe
        values = by_text(given, "recipe", do)
        names = [one.name for one in dataclasses.fields(cls)]
        for name in values:
            if name not in names:
                asked = f"a recipe with {shown(name, values[name])}"
                raise ArgumentError(asked, "no such setting of training", suggest(name, names))
        return cls(**{**defaults, **{name: value for name, value in values.items() if value is not None}})

    def settings(self) -> dict[str, Any]:
        """Every value by name, those in `arguments` too, as JSON can say it: what tells runs apart."""
        values = {name: value for name, value in vars(self).items() if name != "arguments"}
        return {k: v if isinstance(v, PLAIN) else repr(v) for k, v in {**values, **self.arguments}.items()}


# a dataclass makes its own constructor: unknown arguments are refused as everywhere
Recipe.__init__ = public(Recipe.__init__)  # type: ignore[method-assign]


def _number(value: Any, name: str, positive: bool = False) -> float:
    number = finite(value, name)
    if number < 0 or (positive and number == 0):
        found, do = ("not positive", "give more than 0") if positive else ("negative", "give 0 or more")
        raise ArgumentError(f"{name}={value!r}", found, do)
    return number


def _training_arguments(arguments: Any) -> dict[str, Any]:
    """Their names are checked here, their values where `TrainingArguments` are made of them."""
    if arguments is None:
        return {}
    if not isinstance(arguments, Mapping):
        do = "give a mapping of transformers.TrainingArguments by name"
        raise ArgumentError(f"arguments={arguments!r:.60}", kind_of(arguments), do)
    known = [one.name for one in dataclasses.fields(TrainingArguments) if one.init]
    for name, value in arguments.items():
        if name not in known:
            raise ArgumentError(f"arguments[{name!r}]", "no TrainingArguments of that name", suggest(name, known))
        if name in NAMED:
            do = f"give {NAMED[name]}=..."
            raise ArgumentError(f"arguments[{name!r}]", "an argument that has a name of its own here", do)
        if name in ELSEWHERE:
            raise ArgumentError(f"arguments[{name!r}]", "an argument whose part something else has", ELSEWHERE[name])
        if name in PROCESS_WIDE and value:
            raise ArgumentError(f"arguments[{name!r}]", "a switch for the whole process", "set it in torch yourself")
    return dict(arguments)
