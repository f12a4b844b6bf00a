"""Recipe: checked once when it is made, and made of what users give."""

import dataclasses
import inspect

import pytest

import neuroscope as ns
from neuroscope.errors import ArgumentError
from neuroscope.training import Recipe, finetune


def test_its_values_are_keywords_of_finetune():
    keywords = inspect.signature(finetune).parameters
    for field in dataclasses.fields(Recipe):
        assert field.name in keywords
        if field.name not in ("lr", "arguments"):  # of finetune's own; a dict of nothing
            assert keywords[field.name].default == field.default
    assert ns.Recipe is Recipe


def test_it_is_made_of_a_recipe_a_mapping_or_nothing():
    assert Recipe.of(None, lr=0.1) == Recipe(lr=0.1)
    assert Recipe.of({"steps": 4, "lr": None}, lr=0.1, epochs=2) == Recipe(steps=4, lr=0.1, epochs=2)
    assert Recipe.of(Recipe(steps=4), lr=0.1) == Recipe(steps=4, lr=0.1)
    assert Recipe.of(Recipe(lr=0.2), lr=0.1) == Recipe.of({"lr": 0.2}, lr=0.1) == Recipe(lr=0.2)
    given = {"optim": "sgd"}
    recipe = Recipe(arguments=given)
    given["optim"] = "adafactor"
    assert recipe.arguments == {"optim": "sgd"}
    assert Recipe(arguments={"optim": "sgd", "optim_args": ["x"]}, dev=0.5).settings() == {
        "steps": None, "epochs": 3, "lr": None, "batch_size": 16, "weight_decay": 0, "dev": 0.5, "patience": 3,
        "every": None, "optim": "sgd", "optim_args": "['x']",
    }  # fmt: skip
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.lr = 1


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"steps": 0}, "steps=0"),
        ({"steps": 2.5}, "steps=2.5"),
        ({"steps": True}, "steps=True"),
        ({"every": 0}, "every=0"),
        ({"patience": 0}, "patience=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"epochs": 0}, "epochs=0.0\n.*not positive"),
        ({"epochs": "all"}, "epochs='all'"),
        ({"lr": 0}, "lr=0.0\n.*not positive"),
        ({"lr": float("nan")}, r"lr=nan\)\n.*finite"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1\n.*negative"),
        ({"dev": 1}, "dev=1.0\n.*not a fraction"),
        ({"dev": -0.1}, "dev=-0.1"),
        ({"arguments": "sgd"}, r"arguments='sgd'\)\n.*a str"),
        ({"arguments": {"learning_rat": 1}}, "(?s)learning_rat.*did you mean 'learning_rate'"),
        ({"arguments": {"learning_rate": 1}}, "(?s)learning_rate.*give lr="),
        ({"arguments": {"tf32": True}}, "(?s)tf32.*whole process"),
    ],
)
def test_bad_values_are_refused(values, found):
    with pytest.raises(ArgumentError, match=found):
        Recipe(**values)
    with pytest.raises(ArgumentError, match=found):
        Recipe.of(values)


def test_bad_recipes_are_refused():
    with pytest.raises(ArgumentError, match="(?s)wight_decay=1.*did you mean 'weight_decay'"):
        Recipe.of({"wight_decay": 1})
    with pytest.raises(ArgumentError, match="(?s)recipe=3.*an? int.*give a Recipe"):
        Recipe.of(3)
