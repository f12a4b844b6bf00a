"""Devices that there are not: tensors with data in memory that claim another device, and refuse to meet another one's.

`python two_devices.py` spreads a tiny model over two of them and compares with the same model on the processor.
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from distributed_worker import PLOTS, REVIEWS, close
from families import build
from tiny import tiny_model, tiny_tokenizer
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from neuroscope.attribution import METHODS, attribute
from neuroscope.evaluation import evaluate
from neuroscope.interventions import ablate, add, patch, scale
from neuroscope.models import load, tap_experts
from neuroscope.training import NeuronAdapter
from neuroscope.training.finetuning import every_ffn

aten = torch.ops.aten
MIXING = {aten.copy_.default, aten._to_copy.default, aten.index.Tensor, aten.index_put_.default, aten.index_put.default}


class Elsewhere(torch.Tensor):
    """A tensor on device `other:N`, whose data are in `.here`."""

    @staticmethod
    def __new__(cls, here, device):
        about = {"strides": here.stride(), "storage_offset": here.storage_offset(), "dtype": here.dtype}
        self = torch.Tensor._make_wrapper_subclass(cls, here.shape, device=device, **about)
        self.here = here
        return self

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return run(function, args, kwargs or {})


class Literals(TorchFunctionMode):
    """`torch.tensor(..., device=)` does not pass by the mode below."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            return function(*args, **{k: v for k, v in kwargs.items() if k != "device"}).to(kwargs["device"])
        if function is torch.Tensor.tolist:  # nor this
            return function(args[0].cpu())
        return function(*args, **kwargs)


class Devices(TorchDispatchMode):
    """Also tensors that are made anew, or moved from the processor."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return run(function, args, kwargs or {})


def run(function, args, kwargs):
    given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    places = {x.device for x in given if x.ndim or x.device.type != "cpu"}  # numbers of the processor go anywhere
    if len(places) > 1 and function not in MIXING:
        raise RuntimeError(f"{function}: tensors on {', '.join(map(str, places))}")
    if (
        function in MIXING
        and given[0].device.type == "cpu"
        and function not in (aten.copy_.default, aten._to_copy.default)
    ):
        assert len(places) < 2, f"{function}: indices on another device"
    place = (
        torch.device(kwargs["device"])
        if kwargs.get("device") is not None
        else next((x.device for x in given if x.ndim or x.device.type != "cpu"), torch.device("cpu"))
    )
    owners = {id(x.here): x for x in given if isinstance(x, Elsewhere)}
    args, kwargs = tree_map(lambda x: x.here if isinstance(x, Elsewhere) else x, (args, kwargs))
    if kwargs.get("device") is not None:
        kwargs["device"] = torch.device("cpu")
    if function is aten._to_copy.default and place.type == "other":
        kwargs["device"] = torch.device("cpu")
    found = function(*args, **kwargs)

    def label(x):
        if not isinstance(x, torch.Tensor) or place.type == "cpu":
            return x
        return owners.get(id(x)) if id(x) in owners else Elsewhere(x, place)

    return tree_map(label, found)


def spread(root, place):
    """Move a model's parts to their devices, and activations as accelerate's hooks move them."""
    moved = {}
    for path, module in root.named_modules():
        for name, p in module._parameters.items():
            if p is not None:
                key = id(p), place(path)
                moved.setdefault(key, torch.nn.Parameter(p.detach().to(place(path))))
                module._parameters[name] = moved[key]
        for name, b in module._buffers.items():
            module._buffers[name] = None if b is None else b.to(place(path))

    def move(x, device):
        if isinstance(x, torch.Tensor):
            return x.to(device)
        return tuple(move(y, device) for y in x) if isinstance(x, tuple) else x

    def mover(device):
        moves = lambda module, args, kwargs: (move(args, device), {k: move(v, device) for k, v in kwargs.items()})  # noqa: E731
        moves.__module__ = "accelerate.hooks"  # whose part it plays
        return moves

    for path, module in root.named_modules():
        if path.count(".") == 2 or not list(module.children()):
            module.register_forward_pre_hook(mover(place(path)), with_kwargs=True)


def last_half(path):
    return "cpu" if ".layers.1" in path or path.startswith("lm_head") or path.endswith("model.norm") else "other:0"


BASE = tiny_model(seed=1)  # before there is a second device, whose generators it would ask for


def built(kind):
    model = tiny_model() if kind == "llama" else load(tap_experts(build("mixtral")), tokenizer=tiny_tokenizer())
    model.root.set_attn_implementation("eager")  # the other kernels are the real devices' own
    return model


def attributions(model, methods, units):
    for method in methods:
        options = {"neurons": 6} if method == "exact" else {"steps": 2} if method == "integrated-gradients" else {}
        if method == "change":
            options = {"base": BASE}
        yield attribute(model, {"a": REVIEWS, "b": PLOTS}, method=method, batch_size=4, **options)
    for unit in units:
        yield attribute(model, {"a": REVIEWS}, unit=unit)


def scopes(model, mask):
    yield ablate(model, mask)
    yield ablate(model, mask, value=0.5)
    yield ablate(model, mask, value="mean", data=REVIEWS)
    yield ablate(model, mask, value="resample", data=REVIEWS)
    yield scale(model, mask, 2.0)
    yield add(model, mask, 0.5)
    yield patch(model, mask, source="the food was")


def check_attribution(model, plain, *which):
    for found, wanted in zip(attributions(model, *which), attributions(plain, *which), strict=True):
        for name in wanted:
            close(found[name], wanted[name], atol=1e-5)
            assert all(v.device.type == "cpu" for v in found[name].values())


def check_interventions(model, plain):
    for unit in ("hidden", "output", "head"):
        mask = attribute(plain, REVIEWS, unit=unit).top(0.3)
        for here, there in zip(scopes(plain, mask), scopes(model, mask), strict=True):
            results = []
            for scope, opened in ((here, plain), (there, model)):
                with scope, torch.no_grad():
                    ids = torch.tensor([[1, 5, 7, 9]], device=opened.device)
                    results.append(opened.logits({"input_ids": ids}).cpu())
            torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
        with ablate(plain, mask), ablate(model, mask):
            assert evaluate(model, REVIEWS, split="train").score == evaluate(plain, REVIEWS, split="train").score


def check_adapter(model, plain):
    trained = []
    for opened in (model, plain):
        adapter = NeuronAdapter(opened, every_ffn(opened))
        ids = torch.tensor([[1, 5, 7, 9]], device=opened.device)
        with adapter.alone():
            for _ in range(2):
                opened.logits({"input_ids": ids}).log_softmax(-1)[0, :, 6].sum().neg().backward()
                with torch.no_grad():
                    for p in adapter.parameters():
                        p -= 0.1 * p.grad
                        p.grad = None
        live = opened.logits({"input_ids": ids}).detach().cpu()
        adapter.merge()
        torch.testing.assert_close(opened.logits({"input_ids": ids}).detach().cpu(), live, rtol=1e-4, atol=1e-5)
        adapter.unmerge()
        assert opened.fingerprint() != adapter.base
        trained.append([live, *(p.detach().cpu() for p in adapter.parameters())])
        adapter.detach()
    for one, other in zip(*trained, strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def main():
    torch.set_num_threads(1)
    kinds = ("llama", "mixtral")
    plain, spread_out = {kind: built(kind) for kind in kinds}, {kind: built(kind) for kind in kinds}
    _setup_privateuseone_for_python_backend("other")
    with Literals(), Devices():
        for kind, model in spread_out.items():
            spread(model.root, last_half)
            model = load(model.root, tokenizer=model.tokenizer)
            assert {p.device.type for p in model.root.parameters()} == {"cpu", "other"}
            with pytest.raises(RuntimeError, match="tensors on"):
                sum(p.sum() * torch.ones(2) for p in model.root.parameters())
            assert model.fingerprint() == plain[kind].fingerprint()
            if kind == "llama":
                check_attribution(model, plain[kind], METHODS, ("output", "head"))
                check_interventions(model, plain[kind])
                check_adapter(model, plain[kind])
            else:
                check_attribution(model, plain[kind], ("attribution-patching", "exact"), ())


if __name__ == "__main__":
    main()
