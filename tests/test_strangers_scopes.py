"""Scopes as strangers use them: threads, copies, checkpointing, networks that change, notebooks."""

import contextlib
import contextvars
import copy
import gc
import io
import re
import threading

import peft
import pytest
import torch
from families import build, inputs
from torch.utils import checkpoint

import neuroscope as ns
from neuroscope.models.sites import edit

IDS = inputs("causal")["input_ids"]


def masked(model, unit="hidden", share=0.5):
    generator = torch.Generator().manual_seed(0)
    sites = model.sites(unit)
    chosen = {a: torch.randperm(s.width, generator=generator)[: int(s.width * share)] for a, s in sites.items()}
    return ns.NeuronMask.of(chosen, {a: s.width for a, s in sites.items()}, unit)


def off_by_weights(root, mask, modules):
    """The logits with the mask's columns of these output projections at zero."""
    other = copy.deepcopy(root)
    paths = {id(m): p for p, m in root.named_modules()}
    with torch.no_grad():
        for address, module in modules.items():
            other.get_submodule(paths[id(module)]).weight[:, mask[address]] = 0
        return other(IDS).logits


@torch.no_grad()
def logits(root):
    return root(IDS).logits


@pytest.fixture
def llama():
    return build("llama")


# a network that is changed after it was opened


def with_lora(root, targets=("down_proj", "gate_proj")):
    config = peft.LoraConfig(r=2, target_modules=list(targets), init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return peft.get_peft_model(root, config).eval()


def ablated(model, mask):
    with ns.ablate(model, mask):
        return logits(model.root)


def test_an_adapter_merged_after_opening(llama):
    adapted = with_lora(llama)
    model = ns.load(adapted)
    mask = masked(model)
    before = ablated(model, mask)
    merged = adapted.merge_and_unload()
    with torch.no_grad(), ns.ablate(model, mask):
        after = merged(IDS).logits
    assert torch.allclose(before, after, atol=1e-5) and not torch.allclose(after, logits(merged), atol=1e-2)


def test_an_adapter_added_after_opening(llama):
    model = ns.load(llama)
    mask = masked(model)
    with_lora(llama)
    fresh = ns.load(llama)
    assert torch.equal(ablated(model, mask), ablated(fresh, mask))
    for address, site in fresh.sites().items():
        renewed = model.sites()[address]
        assert renewed.module is site.module
        assert [id(r.param) for r in renewed.out] == [id(r.param) for r in site.out]
        assert renewed.ins.keys() == site.ins.keys()


def test_a_layer_or_parameter_replaced_after_opening(llama):
    model = ns.load(llama)
    mask = masked(model)
    mlp = llama.model.layers[0].mlp
    mlp.down_proj = copy.deepcopy(mlp.down_proj)
    mlp.gate_proj.weight = torch.nn.Parameter(mlp.gate_proj.weight * 2)
    expected = off_by_weights(llama, mask, {a: s.module for a, s in ns.load(llama).sites().items()})
    assert torch.allclose(ablated(model, mask), expected, atol=1e-5)
    assert model.sites()["blocks.0.mlp.hook_post"].ins["gate"][0].param is mlp.gate_proj.weight


def test_a_layer_replaced_after_the_scope_was_made_or_within_it(llama):
    model = ns.load(llama)
    mask = masked(model)
    scope = ns.ablate(model, mask)
    mlp = llama.model.layers[0].mlp
    mlp.down_proj = copy.deepcopy(mlp.down_proj)
    with scope:
        inside = logits(llama)
    assert torch.equal(inside, ablated(ns.load(llama), mask))
    inside = r"changed inside the scope: blocks\.0\.mlp\.hook_post"
    with pytest.raises(ns.NeuroscopeError, match=inside), ns.ablate(model, mask):
        mlp.down_proj = copy.deepcopy(mlp.down_proj)
    mlp.down_proj = torch.nn.Linear(24, 32, bias=False)
    mlp.gate_proj, mlp.up_proj = torch.nn.Linear(32, 24, bias=False), torch.nn.Linear(32, 24, bias=False)
    with pytest.raises(ns.NeuroscopeError, match="a network that was changed since"), scope:
        pass


# torch.compile


def compiled_forward(h):
    h.forward = torch.compile(h.forward, backend="eager")


def compiled_layer(h):
    h.model.layers[0].compile(backend="eager")


def compiled_mlp(h):
    h.model.layers[1].mlp = torch.compile(h.model.layers[1].mlp, backend="eager")


def undo_forward(h):
    del h.forward


def undo_layer(h):
    h.model.layers[0]._compiled_call_impl = None


def undo_mlp(h):
    h.model.layers[1].mlp = h.model.layers[1].mlp._orig_mod


@pytest.mark.parametrize(
    ("change", "undo", "advice"),
    [
        (compiled_forward, undo_forward, "del module.forward"),
        (compiled_layer, undo_layer, "module._compiled_call_impl = None"),
        (compiled_mlp, undo_mlp, "compiled._orig_mod"),
    ],
)
def test_what_is_compiled_after_opening_is_refused_and_the_advice_helps(llama, change, undo, advice):
    model = ns.load(llama)
    mask = masked(model)
    scope = ns.ablate(model, mask)
    right = ablated(model, mask)
    change(llama)
    for use in (lambda: ns.load(llama), lambda: ns.ablate(model, mask), scope.__enter__):
        with pytest.raises(
            ns.NeuroscopeError, match="torch.compile.*ignores hooks added later".replace(".*", r"(.|\n)*")
        ):
            use()
    with pytest.raises(ns.NeuroscopeError, match=re.escape(advice)):
        ns.load(llama)
    undo(llama)
    with scope:
        assert torch.equal(logits(llama), right)


# copies


@pytest.mark.parametrize("scope_of", [lambda m, k: ns.ablate(m, k), lambda m, k: ns.patch(m, k, source=IDS[:, :3])])
def test_copies_of_a_model_inside_a_scope_are_not_edited(llama, scope_of):
    model, clean = ns.load(llama), logits(llama)
    mask = masked(model)
    saved = io.BytesIO()
    with scope_of(model, mask):
        other = copy.deepcopy(llama)
        torch.save(llama, saved)
        opened_again = copy.deepcopy(model)
    saved.seek(0)
    assert torch.equal(logits(other), clean)
    assert torch.equal(logits(torch.load(saved, weights_only=False)), clean)
    assert torch.equal(logits(opened_again.root), clean)
    assert torch.equal(ablated(opened_again, mask), ablated(model, mask))


# threads


def in_thread(function, *args):
    got = []

    def body():
        try:
            got.append(function(*args))
        except Exception as error:
            got.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    return got[0]


def test_a_forward_pass_of_another_thread_inside_a_scope_is_refused(llama):
    model, clean = ns.load(llama), logits(llama)
    with ns.ablate(model, masked(model)):
        inside = logits(llama)
        error = in_thread(logits, llama)
        assert isinstance(error, ns.NeuroscopeError) and "another thread" in str(error)
        assert torch.equal(in_thread(contextvars.copy_context().run, logits, llama), inside)
        assert torch.equal(in_thread(logits, copy.deepcopy(llama)), clean)
    assert torch.equal(in_thread(logits, llama), clean)


def test_a_patch_looks_at_the_passes_of_its_own_thread(llama):
    """A pass of another thread, in the middle of one that is patched, is refused, and not taken for that one."""
    model = ns.load(llama)
    padded = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS).index_fill(1, torch.tensor([-1]), 0)}
    errors = []

    def meanwhile(*passed):
        if threading.current_thread() is threading.main_thread():
            errors.append(in_thread(logits, llama))

    handle = llama.model.layers[0].register_forward_pre_hook(meanwhile)
    try:
        with ns.patch(model, masked(model), source=IDS, positions=[-1]):
            with pytest.raises(ns.NeuroscopeError, match="padded at the end"), torch.no_grad():
                llama(**padded)
            assert torch.equal(logits(llama), logits(llama))
    finally:
        handle.remove()
    assert errors and all("another thread" in str(error) for error in errors)


def test_threads_at_work_on_one_model_give_the_right_numbers_or_our_error(llama):
    model, clean = ns.load(llama), logits(llama)
    masks = [masked(model, share=s) for s in (0.2, 0.5, 0.9)]
    right = [ablated(model, mask) for mask in masks]
    wrong, done = [], []

    def work(i):
        for turn in range(20):
            try:
                plain = turn % 2
                value = logits(llama) if plain else ablated(model, masks[i])
                if not torch.equal(value, clean if plain else right[i]):
                    wrong.append(i)
                done.append(i)
            except ns.NeuroscopeError:
                pass

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and done
    assert torch.equal(logits(llama), clean)


def test_quiet_scopes_of_two_threads_restore_what_the_first_found(llama):
    model = ns.load(llama.train())
    first, second = model.quiet(), model.quiet()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not any(m.training for m in llama.modules()) and not any(p.requires_grad for p in llama.parameters())
    second.__exit__(None, None, None)
    assert all(m.training for m in llama.modules()) and all(p.requires_grad for p in llama.parameters())


# gradient checkpointing


def gradients(root, scopes, inside, again=None, elsewhere=None):
    root.train()
    root.zero_grad()
    if again is not None:
        root.activation_checkpointing_enable({"use_reentrant": again})
    root.enable_input_require_grads()
    with entered(scopes):
        loss = root(IDS, labels=IDS).loss
        if inside:
            loss.backward()
    if not inside:
        with entered(elsewhere or ()):
            loss.backward()
    root.activation_checkpointing_disable()
    root.disable_input_require_grads()
    return torch.cat([p.grad.flatten() for p in root.parameters()])


def entered(scopes):
    stack = contextlib.ExitStack()
    for scope in scopes:
        stack.enter_context(scope)
    return stack


@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize("inside", [True, False])
def test_gradients_under_checkpointing_are_those_of_the_edited_model(llama, again, inside):
    model = ns.load(llama)
    sites = list(model.sites().values())
    scopes = [
        ns.ablate(model, masked(model)),
        edit(sites, lambda s, h, t: h + 0.3),
        ns.scale(model, masked(model), 2.0),
    ]
    right = gradients(llama, scopes, inside=True)
    assert not torch.allclose(right, gradients(llama, [], inside=True), rtol=0.1)
    assert torch.equal(gradients(llama, scopes, inside, again), right)
    assert torch.equal(gradients(llama, scopes, False, again, elsewhere=[scopes[0]]), right)
    plain = gradients(llama, [], inside=True)
    assert torch.equal(gradients(llama, [], False, again, elsewhere=[scopes[0]]), plain)
    gc.collect()
    assert not any(m._forward_pre_hooks for m in llama.modules())


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradients_under_nested_checkpoints_of_ones_own(llama, reentrant):
    model = ns.load(llama)
    mlp, x = llama.model.layers[0].mlp, torch.randn(2, 3, 32, requires_grad=True)

    def run(function):
        scope = ns.ablate(model, masked(model))
        with scope:
            out = function(x)
        return torch.autograd.grad(out.sum(), [x], allow_unused=True) if not reentrant else backward(out)

    def backward(out):
        x.grad = None
        out.sum().backward()
        return (x.grad,)

    def inner(x):
        return checkpoint.checkpoint(mlp, x, use_reentrant=reentrant)

    right = run(mlp)[0]
    assert torch.equal(run(inner)[0], right)
    assert torch.equal(run(lambda x: checkpoint.checkpoint(inner, x, use_reentrant=reentrant))[0], right)


# a scope that nobody entered


def test_a_scope_says_what_it_would_do_and_whether_it_is_on(llama):
    model, clean = ns.load(llama), logits(llama)
    scope = ns.ablate(model, masked(model))
    what = "<ablate(value='zero') of 48 neurons at 2 sites of LlamaForCausalLM: "
    assert repr(scope) == what + "off; it acts within `with ...:`, or from .on() to .off()>"
    with scope as given:
        assert given is scope and repr(scope) == what + "on>"
        with pytest.raises(ns.NeuroscopeError, match="it is on"):
            scope.on()
        with pytest.raises(ns.NeuroscopeError, match="by `with`"):
            scope.off()
    with pytest.raises(ns.NeuroscopeError, match="it is off"):
        scope.off()
    assert scope.on() is scope
    changed = contextvars.Context().run(logits, llama)  # a notebook may run each cell in a context of its own
    assert not torch.equal(changed, clean)
    contextvars.Context().run(scope.off)
    assert torch.equal(logits(llama), clean)


def del_(scope):
    """Nothing holds the argument when this returns."""


def test_a_scope_that_is_dropped_says_so(llama):
    model, clean = ns.load(llama), logits(llama)
    with pytest.warns(UserWarning, match="without being entered, so nothing happened: ablate"):
        del_(ns.ablate(model, masked(model)))
    with pytest.warns(UserWarning, match="switched off, as nothing holds it: patch"):
        del_(ns.patch(model, masked(model), source=IDS).on())
    assert torch.equal(logits(llama), clean)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in llama.modules())


@pytest.mark.parametrize(
    "call",
    [
        ns.ablate,
        lambda m, k: ns.scale(m, k, 2.0),
        lambda m, k: ns.add(m, k, 1.0),
        lambda m, k: ns.patch(m, k, source="the food"),
    ],
)
def test_a_name_is_refused_where_state_is_set(llama, call):
    mask = masked(ns.load(llama))
    with pytest.raises(ns.NeuroscopeError, match=r"every call opens a copy(.|\n)*ns\.load\('mini'\)"):
        call("mini", mask)
    with pytest.raises(ns.NeuroscopeError, match="a NeuronMask in place of a model"):
        call(mask, llama)
    with pytest.raises(ns.NeuroscopeError, match="a Task in place of a mask"):
        call(llama, ns.Task("x", labels=("a", "b")))


# patching while generating


@pytest.mark.parametrize("name", ["llama", "opt", "t5"])
@pytest.mark.parametrize("tokens", [1, 4])
def test_patching_leaves_the_steps_of_generation_alone(name, tokens):
    root = build(name)
    model = ns.load(root)
    mask = masked(model)
    mask = mask if name != "t5" else masked_part(mask, "decoder_")
    prompt = IDS[:1, :tokens]
    source = {"input_ids": IDS[1:, :tokens]} | ({"decoder_input_ids": IDS[1:, :1]} if name == "t5" else {})
    settings = {"max_new_tokens": 4, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    settings["eos_token_id"] = None
    with ns.patch(model, mask, source=source):
        got = torch.stack(root.generate(prompt, **settings).logits)
    # the same by hand: the prompt is patched, and each step goes on from its cache
    if name == "t5":
        given = {"input_ids": prompt, "decoder_input_ids": torch.zeros(1, 1, dtype=torch.long)}
        key = "decoder_input_ids"
    else:
        given, key = {"input_ids": prompt}, "input_ids"
    rows = []
    with torch.no_grad():
        with ns.patch(model, mask, source=source):
            out = root(**given, use_cache=True)
        rows.append(out.logits[:, -1])
        for _ in range(3):
            step = {"input_ids": prompt} if name == "t5" else {}
            step[key] = rows[-1].argmax(-1)[:, None]
            out = root(**step, past_key_values=out.past_key_values, use_cache=True)
            rows.append(out.logits[:, -1])
    assert torch.allclose(got, torch.stack(rows), atol=1e-5)


def masked_part(mask, start):
    return ns.NeuronMask.of({a: mask[a] for a in mask.widths if a.startswith(start)}, mask.widths, mask.unit)
