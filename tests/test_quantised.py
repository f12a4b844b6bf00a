"""Quantised models: what reads or changes activations works as on any, what needs the weights one by one refuses them.

Beside each stands its plain twin, whose weights are the numbers that the codes stand for: it computes the same.
"""

import copy
import logging

import pytest
import torch
import transformers
from packed import Int8Linear, quantise
from state import changed, snapshot
from torch import nn

import neuroscope as ns
from neuroscope import evaluation
from neuroscope.models import UNITS, resolve
from neuroscope.models.packed import is_packed_linear

logging.disable(logging.WARNING)  # torchao says at import which of its GPU kernels are not there
try:
    from torchao.quantization import (
        Int8DynamicActivationInt8WeightConfig,
        Int8WeightOnlyConfig,
        IntxWeightOnlyConfig,
        quantize_,
    )
    from torchao.quantization.granularity import PerGroup
except ImportError:
    quantize_ = None
finally:
    logging.disable(logging.NOTSET)

TORCHAO = pytest.mark.skipif(quantize_ is None, reason="torchao is not installed: pip install 'neuroscope[torchao]'")
KINDS = [pytest.param("int8", marks=TORCHAO), pytest.param("int4", marks=TORCHAO), "opaque"]


@pytest.fixture(scope="module")
def mini():
    return ns.load("mini")


@pytest.fixture(scope="module")
def tasks():
    return ns.load_tasks("mini")


@pytest.fixture(scope="module")
def pairs(mini):
    """Of each kind the quantised model, and the plain one with the same weights."""
    made = {}

    def pair(kind):
        if kind not in made:
            if kind == "int4":  # as transformers loads it
                groups = IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(32))
                model = ns.load("mini", quantization_config=transformers.TorchAoConfig(groups))
            else:
                root = copy.deepcopy(mini.root)
                root = quantise(root) if kind == "opaque" else quantize_(root, Int8WeightOnlyConfig()) or root
                model = ns.load(root, tokenizer=mini.tokenizer)
            made[kind] = model, ns.load(plain_twin(model.root), tokenizer=mini.tokenizer)
        return made[kind]

    return pair


def plain_twin(quantised):
    root = copy.deepcopy(quantised)
    for path, module in list(root.named_modules()):
        if is_packed_linear(module):
            linear = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
            weight = module.plain() if isinstance(module, Int8Linear) else module.weight.dequantize()
            linear.weight, linear.bias = nn.Parameter(weight), module.bias
            root.set_submodule(path, linear)
    return root


def every_fifth(model, first=0):
    widths = {address: site.width for address, site in model.sites().items()}
    return ns.NeuronMask.of({address: range(first, width, 5) for address, width in widths.items()}, widths)


def logits(model):
    with torch.no_grad():
        return model.root(input_ids=torch.arange(5, 25).view(2, 10)).logits


def near(found, right):
    """To the rounding of float32, which a few layers let grow."""
    torch.testing.assert_close(found, right, rtol=1e-3, atol=2e-5 * float(right.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_neurons_as_in_the_plain_model(mini, pairs, kind):
    model, twin = pairs(kind)
    assert "quantised" in repr(model) and "quantised" not in repr(twin)
    for unit in UNITS:
        places = [
            [(a, s.width, s.path, s.gate and s.gate.path) for a, s in m.sites(unit).items()] for m in (mini, model)
        ]
        assert places[0] == places[1] and len(places[0]) == 4
        assert all(not s.out and not s.ins for s in model.sites(unit).values())
    near(logits(model), logits(twin))
    assert (logits(model) - logits(mini)).abs().max() > 0.01  # it is rounded


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0.0, 3.0])
def test_an_ablation_is_that_of_a_hook_made_by_hand(pairs, kind, value):
    model, _ = pairs(kind)
    mask = every_fifth(model)
    before = logits(model)
    with ns.ablate(model, mask, value=value):
        found = logits(model)
    handles = []
    for address, site in model.sites().items():
        chosen = torch.zeros(site.width, dtype=torch.bool).index_fill_(0, mask[address], True)
        layer = model.root.get_submodule(site.path)
        handles.append(layer.register_forward_pre_hook(lambda m, x, c=chosen: (torch.where(c, value, x[0]),)))
    right = logits(model)
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(found, right, atol=1e-5, rtol=1e-5)
    assert (found - before).abs().max() > 0.1
    torch.testing.assert_close(logits(model), before, atol=0, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("method", "unit"),
    [
        *[
            ("grad-x-act", "hidden"),
            ("grad-x-act", "output"),
            ("grad-x-act", "head"),
            ("integrated-gradients", "hidden"),
        ],
        *[("attribution-patching", "hidden"), ("relp", "hidden"), ("activation", "hidden")],
    ],
)
def test_scores_are_those_of_the_plain_model(pairs, tasks, kind, unit, method):
    model, twin = pairs(kind)
    found, right = (
        ns.attribute(m, tasks["sentiment-food"], method=method, unit=unit, examples=4) for m in (model, twin)
    )
    near(found.vector(), right.vector())
    assert right.vector().std() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_other_measures_are_those_of_the_plain_model(pairs, tasks, kind):
    model, twin = pairs(kind)
    task, other = tasks["sentiment-food"], tasks["nli-food"]
    exact = [ns.attribute(m, task, method="exact", unit="head", examples=4).vector() for m in (model, twin)]
    torch.testing.assert_close(*exact, atol=1e-4, rtol=1e-3)
    lape = [ns.attribute(m, [task, other], method="lape", quantile=0.0, examples=4) for m in (model, twin)]
    same = torch.isclose(*[scores[task.name].vector() for scores in lape], atol=1e-4)
    assert same.float().mean() > 0.99  # a gate near 0 may round to the other side
    near(*[torch.as_tensor(ns.representations(m, task, n=4)[task.name]) for m in (model, twin)])
    ids = torch.arange(5, 15)[None]
    assert model.generate(ids, torch.ones_like(ids), 8).tolist() == twin.generate(ids, torch.ones_like(ids), 8).tolist()
    mask = ns.attribute(twin, task, examples=4).top(0.1)
    scopes = {
        "none": lambda m: ns.scale(m, mask, 1.0),
        "scaled": lambda m: ns.scale(m, mask, 3.0),
        "mean": lambda m: ns.ablate(m, mask, value="mean", data=task),
        "patched": lambda m: ns.patch(m, mask, source={"input_ids": torch.arange(30, 40)[None]}),
    }
    for scope in scopes.values():
        values = []
        for m in (model, twin):
            with scope(m):
                values.append(logits(m))
        near(*values)
    near(*[evaluation.label_loglik(m, evaluation.prepare_task(m, task, "test", 8)) for m in (model, twin)])
    assert ns.evaluate(model, task, n=8).score == ns.evaluate(twin, task, n=8).score


REFUSALS = {  # what needs plain weights
    "neurons": lambda m, t, f: ns.finetune(m, t, every_fifth(m), steps=1, output=f),
    "outputs": lambda m, t, f: ns.finetune(
        m, t, ns.attribute(m, t, unit="output", method="activation", examples=2).top(0.1), steps=1, output=f
    ),
    "ffn": lambda m, t, f: ns.finetune(m, t, "ffn", steps=1, output=f),
    "all": lambda m, t, f: ns.finetune(m, t, None, steps=1, output=f),
    "ncft": lambda m, t, f: ns.continual(m, [t, OTHER], "ncft", recipe={"steps": 1}, output=f),
    "seq-lora": lambda m, t, f: ns.continual(m, [t, OTHER], "seq-lora", recipe={"steps": 1}, output=f),
    "tuning": lambda m, t, f: ns.run(m, [t], tune={"steps": 1}, output=f),
    "weights": lambda m, t, f: ns.attribute(m, t, method="weight-x-grad", examples=2),
    "similarity": lambda m, t, f: ns.parameter_similarity(m, {"a": every_fifth(m), "b": every_fifth(m, 1)}),
}
OTHER = ns.load_tasks("mini")["nli-food"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("use", REFUSALS)
def test_what_needs_plain_weights_is_refused(pairs, tasks, kind, use, tmp_path):
    model, _ = pairs(kind)
    before, fingerprint = snapshot(model.root), model.fingerprint()
    with pytest.raises(ns.NeuroscopeError, match="open the model in float32 or bfloat16, not quantised"):
        REFUSALS[use](model, tasks["sentiment-food"], tmp_path / "output")
    after = snapshot(model.root)
    for name in ("weights",):  # tensors of torchao have no equality
        assert before.pop(name).keys() == after.pop(name).keys()
    assert changed(before, after) == [] and model.fingerprint() == fingerprint
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("kind", KINDS)
def test_a_fingerprint_is_of_codes_and_scales(pairs, kind):
    model, twin = pairs(kind)
    again = copy.deepcopy(model.root)
    assert resolve(again).fingerprint() == model.fingerprint() != twin.fingerprint()
    weight = again.model.layers[1].mlp.up_proj.weight
    for part in [weight] if kind == "opaque" else [weight.qdata, weight.scale]:
        kept = part.clone()
        part.data.view(-1)[7] += 1  # one code, or one scale
        assert resolve(again).fingerprint() != model.fingerprint()
        part.data.copy_(kept)
        assert resolve(again).fingerprint() == model.fingerprint()


@TORCHAO
def test_a_scale_that_is_not_finite_is_found(mini):
    quantize_(root := copy.deepcopy(mini.root), Int8WeightOnlyConfig())
    root.model.layers[2].mlp.down_proj.weight.scale[3] = float("nan")
    with pytest.raises(ns.NeuroscopeError, match=r"non-finite weights in model\.layers\.2\.mlp.*scale"):
        ns.load(root)


@TORCHAO
def test_layers_that_round_their_inputs_pass_no_gradients(mini, tasks):
    quantize_(root := copy.deepcopy(mini.root), Int8DynamicActivationInt8WeightConfig())
    model, task = ns.load(root, tokenizer=mini.tokenizer), tasks["sentiment-food"]
    assert list(model.sites()) == list(mini.sites())
    for method in ("grad-x-act", "integrated-gradients", "attribution-patching", "relp"):
        with pytest.raises(ns.NeuroscopeError, match="quantised, through which no gradient passes"):
            ns.attribute(model, task, method=method, examples=2)
    near = ns.attribute(model, task, method="activation", examples=4).vector()
    right = ns.attribute(mini, task, method="activation", examples=4).vector()
    assert torch.corrcoef(torch.stack([near, right]))[0, 1] > 0.99


@pytest.mark.parametrize("given", ["int8", {}, {"bits": 8}, 8, nn.Linear(2, 2), {"quant_method": 3}])
def test_what_is_no_configuration_is_refused(given):
    with pytest.raises(ns.NeuroscopeError, match=r"(?s)quantization_config=.*TorchAoConfig"):
        ns.load("mini", quantization_config=given)


def test_how_to_quantise_is_said_where_a_model_is_loaded(mini):
    how = {"quant_method": "torchao"}
    with pytest.raises(ns.NeuroscopeError, match=r"(?s)quantization_config=.*loaded already"):
        ns.load(mini.root, quantization_config=how)
    with pytest.raises(ns.NeuroscopeError, match=r"(?s)load model 'mini'|load model .*mini"):
        ns.load("mini", quantization_config={"quant_method": "unheard-of"})
