"""Interventions: they do what the definition says, on every backend, and are gone afterwards."""

import contextlib
import copy

import families
import nnsight
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from state import unchanged
from tiny import WORDS, tiny_tokenizer
from transformer_lens.model_bridge import TransformerBridge

from neuroscope.attribution import attribute
from neuroscope.errors import ArgumentError, MaskError, ModelError
from neuroscope.interop import lens_hooks, nnsight_code
from neuroscope.interventions import ablate, add, patch, scale
from neuroscope.masks import NeuronMask
from neuroscope.models import load, resolve, tap_experts
from neuroscope.models.sites import edit
from neuroscope.tasks import Example, Task
from neuroscope.tasks.encoding import batches, encode, pad_id

STYLES = ("causal", "seq2seq", "masked")
TASK = Task(
    "reviews",
    train=[Example(" ".join(WORDS[i : i + n]), "good") for i, n in enumerate((3, 9, 1, 6))],
    labels=("good", "bad"),
)
SPREAD = ["llama", "gpt2", "opt", "t5", "bert"]


def open_family(name):
    root = families.build(name)
    return load(tap_experts(root) if name in families.MOE else root, tokenizer=tiny_tokenizer())


def ids_of(model, batch=2, length=5, seed=0):
    ids = torch.randint(3, 20, (batch, length), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids} | ({"decoder_input_ids": ids.flip(1)} if model.style == "seq2seq" else {})


def widths_of(model, unit="hidden"):
    return {a: s.width for a, s in model.sites(unit).items()}


def every_third(model, unit="hidden", start=0):
    widths = widths_of(model, unit)
    return NeuronMask.of({a: range(start, w, 3) for a, w in widths.items()}, widths, unit)


def only(model, unit, keep):
    widths = widths_of(model, unit)
    return NeuronMask.of({a: range(w) for a, w in widths.items() if keep(a)}, widths, unit)


def logits(model, inputs):
    with torch.no_grad():
        return model.root(**inputs).logits


def seen(model, inputs, unit="hidden"):
    """What the sites hold in a run, interventions included: address -> [batch, pos, coordinate]."""
    found = {}
    rows = len(inputs["input_ids"])
    with edit(
        model.sites(unit).values(), lambda s, h, t: found.update({s.address: h.reshape(rows, -1, h.shape[-1]).clone()})
    ):
        logits(model, inputs)
    return found


def real_tokens(model, task, unit="hidden"):
    """[token, coordinate] by address, of every example run alone, from the modules themselves."""
    found = {a: [] for a in model.sites(unit)}
    for example in task.split("discovery"):
        (batch,) = batches(encode(model, task, [example]), 1, pad_id(model.tokenizer), "cpu", model.style)
        with contextlib.ExitStack() as stack:
            for address, site in model.sites(unit).items():
                keep = lambda m, args, a=address: found[a].append(args[0].flatten(0, -2).clone())  # noqa: E731
                stack.callback(site.module.register_forward_pre_hook(keep).remove)
            logits(model, batch.inputs)
    return found


@pytest.mark.parametrize("name", [*families.DENSE, "mixtral", "qwen3-moe", "gpt-oss"])
@pytest.mark.parametrize("unit", ["hidden", "output", "head"])
def test_zero_ablation_is_zeroed_parameters(name, unit):
    if name in families.MOE and unit == "output":
        pytest.skip("a mixture's output has no parameters of its own")
    root = families.build(name)
    root = tap_experts(root) if name in families.MOE else root
    model, twin = load(root), load(copy.deepcopy(root))
    mask, inputs = every_third(model, unit), ids_of(model)
    with torch.no_grad():
        for address, site in twin.sites(unit).items():
            chosen = site.coordinates(mask[address])
            for rows in site.out:
                rows.view()[..., chosen] = 0  # a view: the parameter itself
    expected = logits(twin, inputs)
    with ablate(model, mask):
        torch.testing.assert_close(logits(model, inputs), expected, atol=1e-5, rtol=1e-5)
    assert (expected - logits(model, inputs)).abs().max() > 1e-2


@pytest.mark.parametrize("name", SPREAD)
@pytest.mark.parametrize("unit", ["hidden", "output", "head"])
def test_values_land_on_the_chosen_coordinates_only(name, unit):
    model = open_family(name)
    mask, inputs = every_third(model, unit), ids_of(model)
    first = next(iter(model.sites(unit)))  # nothing upstream of it is changed
    site = model.sites(unit)[first]
    chosen = site.coordinates(mask[first])
    assert len(chosen) == len(mask[first]) * site.group
    others = [c for c in range(site.width * site.group) if c not in chosen.tolist()]
    plain = seen(model, inputs, unit)[first]
    amounts = {a: torch.randn(s.width * s.group) for a, s in model.sites(unit).items()}
    for scope, expected in (
        (ablate(model, mask), torch.zeros_like(plain)),
        (ablate(model, mask, value=0.7), torch.full_like(plain, 0.7)),
        (scale(model, mask, -2), -2 * plain),
        (add(model, mask, 0.5), plain + 0.5),
        (add(model, mask, amounts), plain + amounts[first]),
    ):
        with scope:
            got = seen(model, inputs, unit)
        assert torch.equal(got[first][..., chosen], expected[..., chosen])
        assert torch.equal(got[first][..., others], plain[..., others])
    with scale(model, mask, 1), add(model, mask, 0):
        assert torch.equal(logits(model, inputs), before := logits(model, inputs))
    assert torch.equal(logits(model, inputs), before)
    with scale(model, mask, 0):
        zeroed = logits(model, inputs)
    with ablate(model, mask):
        torch.testing.assert_close(logits(model, inputs), zeroed)


@pytest.mark.parametrize("style", STYLES)
def test_mean_is_the_mean_over_real_tokens(tiny_model, style):
    model = tiny_model(style)
    expected = {a: torch.cat(rows).mean(0) for a, rows in real_tokens(model, TASK).items()}
    mask = every_third(model)
    scored = attribute(model, TASK).top(0.4)
    for scope, chosen in (
        (ablate(model, mask, value="mean", data=TASK), mask),
        (ablate(model, scored, value="mean"), scored),  # from the means the mask carries
    ):
        with scope:
            for address, h in seen(model, ids_of(model)).items():
                want = expected[address][chosen[address]].expand(*h.shape[:-1], -1)
                torch.testing.assert_close(h[..., chosen[address]], want, atol=1e-5, rtol=1e-5)
    few = {a: torch.cat(rows[:2]).mean(0) for a, rows in real_tokens(model, TASK).items()}
    first = next(iter(few))
    with ablate(model, mask, value="mean", data=TASK, examples=2):
        h = seen(model, ids_of(model))[first][0, 0, mask[first]]
    torch.testing.assert_close(h, few[first][mask[first]], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(few[first], expected[first])


def test_the_mean_of_a_mixture_is_over_the_tokens_of_each_expert():
    model = open_family("mixtral")
    tokens = {a: torch.cat(rows) for a, rows in real_tokens(model, TASK).items() if rows}
    with pytest.raises(ArgumentError, match="no token of 'reviews' reaches it"):
        ablate(model, every_third(model), value="mean", data=TASK)
    mask = every_third(model) & only(model, "hidden", lambda a: a in tokens)
    with ablate(model, mask, value="mean", data=TASK), contextlib.ExitStack() as stack:
        checked = []

        def check(site, h, t):
            if site.address not in tokens:
                return
            want = tokens[site.address].mean(0)[mask[site.address]].expand(len(h), -1)
            torch.testing.assert_close(h[:, mask[site.address]], want, atol=1e-5, rtol=1e-5)
            checked.append(site.address)

        stack.enter_context(edit(model.sites().values(), check))
        logits(model, ids_of(model))
    assert len(set(checked)) > 4
    with pytest.raises(ModelError, match="a drawn token may not reach"):
        ablate(model, mask, value="resample", data=TASK)


@pytest.mark.parametrize("style", STYLES)
def test_resample_is_one_tokens_whole_state(tiny_model, style):
    model = tiny_model(style)
    tokens = {a: torch.cat(rows) for a, rows in real_tokens(model, TASK).items()}
    mask = ~NeuronMask.of({}, widths_of(model))
    stacks = {a.split(".")[0] for a in tokens}
    drawn = []
    for seed in range(6):
        states = []
        for _ in range(2):
            with ablate(model, mask, value="resample", data=TASK, seed=seed):
                states.append(seen(model, ids_of(model)))
        assert all(torch.equal(states[0][a], states[1][a]) for a in tokens)  # the seed decides
        for stack in stacks:
            mine = [a for a in tokens if a.split(".")[0] == stack]
            assert all(torch.equal(states[0][a], states[0][a][:1, :1].expand_as(states[0][a])) for a in mine)
            near = [(tokens[a] - states[0][a][0, 0]).abs().amax(1) < 1e-5 for a in mine]
            assert torch.stack(near).all(0).any()  # one token has this state at every site of the stack
            drawn.append(tuple(torch.stack(near).all(0).nonzero().flatten().tolist()))
    assert len(set(drawn)) > 2  # and the seeds differ


@pytest.mark.parametrize("name", SPREAD)
def test_patching_a_runs_own_activations_changes_nothing(name):
    model = open_family(name)
    inputs = ids_of(model, batch=3, length=3)
    expected = logits(model, inputs)
    for unit in ("hidden", "output", "head"):
        mask = every_third(model, unit)
        for source in (inputs, seen(model, inputs, unit)):
            with patch(model, mask, source=source):
                torch.testing.assert_close(logits(model, inputs), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt"])
def test_patching_every_block_moves_all_but_the_embedding(name):
    """All heads and FFN outputs from the clean run: the residual stream is the clean one, but for the embeddings."""
    model = open_family(name)
    clean, corrupt = ids_of(model), ids_of(model, seed=1)
    blocks = next(m for m in model.root.modules() if isinstance(m, torch.nn.ModuleList))

    def ends(inputs):
        kept = {}
        first = blocks[0].register_forward_pre_hook(
            lambda m, a, k: kept.update(start=(a or [k["hidden_states"]])[0]), with_kwargs=True
        )
        last = blocks[-1].register_forward_hook(
            lambda m, a, out: kept.update(end=out[0] if isinstance(out, tuple) else out)
        )
        logits(model, inputs)
        first.remove()
        last.remove()
        return kept["end"] - kept["start"]

    wanted = ends(clean)
    assert not torch.allclose(ends(corrupt), wanted, atol=1e-2)
    heads, outputs = (~NeuronMask.of({}, widths_of(model, u), u) for u in ("head", "output"))
    with patch(model, heads, source=clean), patch(model, outputs, source=clean):
        torch.testing.assert_close(ends(corrupt), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", SPREAD)
def test_positions_and_sources_of_one_example(name):
    model = open_family(name)
    run, source = ids_of(model, batch=3), ids_of(model, batch=1, seed=1)
    mask = every_third(model)
    first = next(iter(mask))
    mine, theirs = seen(model, run)[first], seen(model, source)[first]
    expected = mine.clone()
    for p in (1, 4):
        expected[:, p, mask[first]] = theirs[0, p, mask[first]]
    with patch(model, mask, source=source, positions=[1, -1]):
        torch.testing.assert_close(seen(model, run)[first], expected)
    with patch(model, mask, source=source, positions=[]):
        torch.testing.assert_close(seen(model, run)[first], mine)


def test_prompts_batches_and_token_ids_are_the_same_source(tiny_model):
    model = tiny_model()
    prompt = "the food was awful"
    ids = model.tokenizer(prompt, return_tensors="pt").input_ids
    example = Example(prompt, "good")  # one answer token, which is never an input
    (batch,) = batches(encode(model, TASK, [example]), 1, 0, "cpu", "causal")
    assert torch.equal(batch.inputs["input_ids"], ids)
    run = {"input_ids": ids.flip(1)}
    results = []
    for source in (prompt, [prompt], ids, {"input_ids": ids}, batch, model.tokenizer(prompt, return_tensors="pt")):
        with patch(model, every_third(model), source=source):
            results.append(logits(model, run))
    assert all(torch.equal(r, results[0]) for r in results)
    assert not torch.allclose(results[0], logits(model, run), atol=1e-3)
    seq2seq = tiny_model("seq2seq")
    encoder = only(seq2seq, "hidden", lambda a: a.startswith("encoder"))
    run = ids_of(seq2seq, batch=1, length=5)
    with patch(seq2seq, encoder, source=prompt):
        assert not torch.allclose(patched := logits(seq2seq, run), torch.zeros(1))
    assert not torch.allclose(patched, logits(seq2seq, run), atol=1e-3)


def test_patch_says_what_does_not_fit(tiny_model):
    model, seq2seq = tiny_model(), tiny_model("seq2seq")
    mask = every_third(model)
    inputs = ids_of(model, batch=2, length=5)
    with patch(model, mask, source=ids_of(model, batch=2, length=4)), pytest.raises(ArgumentError) as error:
        logits(model, inputs)
    assert "a source of 4 tokens, and a run of 5" in str(error.value)
    with (
        patch(model, mask, source=ids_of(model, batch=3)),
        pytest.raises(ArgumentError, match="3 examples, and a run of 2"),
    ):
        logits(model, inputs)
    with patch(model, mask, source=inputs, positions=[5]), pytest.raises(ArgumentError, match="give -5 to 4"):
        logits(model, inputs)
    cached = seen(model, inputs)
    first, *rest = cached
    for source, text in (
        ({a: cached[a] for a in rest}, "none for"),
        (cached | {first: cached[first][0]}, r"\(5, 48\)"),
        (cached | {first: cached[first][..., 1:]}, r"\(2, 5, 47\)"),
    ):
        with pytest.raises(MaskError, match=text):
            patch(model, mask, source=source)
    for source, text in (
        (["the food", "the"], "prompts of 2 and 3 tokens"),
        ([], "no tokens"),
        (" ".join(["food"] * 64), "a context of 64"),
        (7, "an int"),
    ):
        with pytest.raises(ArgumentError, match=text):
            patch(model, mask, source=source)
    with pytest.raises(ModelError, match="decoder_input_ids"):
        patch(seq2seq, every_third(seq2seq), source="the food")
    mixture = open_family("mixtral")
    with pytest.raises(ModelError, match="exist at some tokens only"):
        patch(mixture, every_third(mixture), source=ids_of(mixture))


def test_a_mask_is_fitted_to_a_model_once_per_intervention(tiny_model, monkeypatch):
    model, fitted = tiny_model(), []
    mask, fits = attribute(model, TASK).top(0.4), NeuronMask.fits
    monkeypatch.setattr(NeuronMask, "fits", lambda mask, *args: [fitted.append(mask), fits(mask, *args)][1])
    for intervene in (
        lambda: ablate(model, mask),
        lambda: ablate(model, mask, value="mean"),
        lambda: ablate(model, mask, value="mean", data=TASK),
        lambda: ablate(model, mask, value="resample", data=TASK),
        lambda: scale(model, mask, 2),
        lambda: add(model, mask, mask.means),
        lambda: patch(model, mask, source="the food"),
    ):
        fitted.clear()
        with intervene():
            logits(model, ids_of(model, batch=1, length=3))
        assert len(fitted) == 1


def test_scopes_nest_and_unwind_in_any_order(tiny_model):
    model = tiny_model()
    inputs, plain = ids_of(model), logits(model, ids_of(model))
    a, b = every_third(model), every_third(model, start=1)
    alone = {}
    for name, mask in {"a": a, "b": b}.items():
        with ablate(model, mask):
            alone[name] = logits(model, inputs)
    with unchanged(model.root):
        for first_out in ("a", "b"):
            scopes = {"a": ablate(model, a), "b": ablate(model, b)}
            for scope in scopes.values():
                scope.__enter__()
            with ablate(model, a | b):
                both = logits(model, inputs)
            assert torch.equal(logits(model, inputs), both)
            scopes.pop(first_out).__exit__(None, None, None)
            ((left, scope),) = scopes.items()
            assert torch.equal(logits(model, inputs), alone[left])
            scope.__exit__(None, None, None)
            assert torch.equal(logits(model, inputs), plain)
    for error in (RuntimeError, KeyboardInterrupt):
        with unchanged(model.root), pytest.raises(error), ablate(model, a), patch(model, b, source=inputs):
            raise error
    with scale(model, a, 3), ablate(model, a):  # the inner one has the last word
        assert torch.equal(logits(model, inputs), alone["a"])


@settings(max_examples=25)
@given(st.data())
def test_ablating_in_ablating_is_ablating_the_union(data):
    model = UNION.setdefault("model", open_family("llama"))
    widths = widths_of(model)
    draw = lambda: NeuronMask.of(  # noqa: E731
        {a: sorted(data.draw(st.sets(st.integers(0, w - 1), max_size=8))) for a, w in widths.items()}, widths
    )
    a, b = draw(), draw()
    with ablate(model, a), ablate(model, b):
        nested = logits(model, ids_of(model))
    with ablate(model, a | b):
        assert torch.equal(logits(model, ids_of(model)), nested)


UNION = {}


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "t5", "mixtral"])
def test_ablation_is_live_at_every_step_of_generate(name):
    model = open_family(name)
    model.root.generation_config.eos_token_id = None  # run to the end
    mask = every_third(model)
    twin = load(copy.deepcopy(model.root))
    with torch.no_grad():
        for address, site in twin.sites().items():
            for rows in site.out:
                rows.view()[..., mask[address]] = 0
    inputs = ids_of(model, batch=2, length=4)["input_ids"]
    plain = model.generate(inputs, torch.ones_like(inputs), 6)
    sizes = []
    last = list(model.sites().values())[-1]

    def look(site, h, t):
        sizes.append(h.flatten(0, -2).shape[0])
        assert bool((h[..., mask[site.address]] == 0).all())

    with ablate(model, mask), edit([last], look):
        out = model.generate(inputs, torch.ones_like(inputs), 6)
    assert torch.equal(out, twin.generate(inputs, torch.ones_like(inputs), 6))
    assert out.shape == (2, 6)
    assert not torch.equal(out, plain)
    if name != "mixtral":  # there each expert sees its own tokens
        prompt = 2 if model.style == "seq2seq" else 8
        assert sizes == [prompt, 2, 2, 2, 2, 2]  # the cache is on: later steps show one token


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt"])
def test_patch_leaves_generation_steps_alone(name):
    model = open_family(name)
    model.root.generation_config.eos_token_id = None
    mask = every_third(model)
    inputs = ids_of(model, batch=3, length=3)["input_ids"]  # as many examples as tokens: rows alone do not tell
    source = ids_of(model, batch=1, length=3, seed=1)
    site = next(iter(model.sites().values()))
    states = []

    def look(site, h, t):
        states.append(h.reshape(3, -1, h.shape[-1]).clone())

    with patch(model, mask, source=source), edit([site], look):
        out = model.generate(inputs, torch.ones_like(inputs), 3)
    prompt, *steps = states
    assert [s.shape[1] for s in steps] == [1, 1]
    chosen = mask[site.address]
    assert torch.equal(prompt[..., chosen], seen(model, source)[site.address][..., chosen].expand(3, -1, -1))
    # what the first FFN reads at a later token hangs on no FFN: it is what it would be without a patch
    plain = seen(model, {"input_ids": torch.cat([inputs, out[:, :2]], 1)})[site.address]
    torch.testing.assert_close(torch.cat(steps, 1), plain[:, 3:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [*SPREAD, "mixtral"])
def test_an_examples_result_does_not_depend_on_its_neighbours(name):
    model = open_family(name)
    mask = every_third(model)
    encoded = encode(model, TASK, TASK.train)

    def scored(batch_size):
        rows = {}
        for batch in batches(encoded, batch_size, 0, "cpu", model.style):
            out = logits(model, batch.inputs)
            for i, index in enumerate(batch.index.tolist()):
                rows[index] = out[i, encoded[index].first]
        return torch.stack([rows[i] for i in range(len(encoded))])

    plain = scored(1)
    scopes = {
        "zero": ablate(model, mask),
        "scale": scale(model, mask, 2.0),
        "add": add(model, mask, 0.3),
    }
    if name != "mixtral":
        scopes["mean"] = ablate(model, mask, value="mean", data=TASK)
        scopes["resample"] = ablate(model, mask, value="resample", data=TASK)
    for label, scope in scopes.items():
        with scope:
            alone, together = scored(1), scored(4)
        assert (alone - together).abs().max() < 1e-5, label
        assert (alone - plain).abs().max() > 1e-4, label


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """From a folder, as TransformerLens wants it."""
    folder = tmp_path_factory.mktemp("words")
    tiny_tokenizer().save_pretrained(folder)
    return transformers.AutoTokenizer.from_pretrained(folder)


def bridge_of(root, words, compatible):
    bridge = TransformerBridge.boot_transformers("tiny", hf_model=root, tokenizer=words, device="cpu")
    if compatible:
        bridge.enable_compatibility_mode(disable_warnings=True)
    return bridge


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("compatible", [False, True])
def test_a_bridge_is_a_model_like_any_other(name, compatible, words):
    reference = load(families.build(name))
    bridge = bridge_of(families.build(name), words, compatible)
    mask, inputs = every_third(reference), ids_of(reference)
    plain = bridge(inputs["input_ids"])
    with ablate(reference, mask):
        expected = logits(reference, inputs).log_softmax(-1)
    with unchanged(bridge.original_model), ablate(bridge, mask), torch.no_grad():
        got = bridge(inputs["input_ids"])
        with ablate(bridge, mask):  # opened again while one is live
            again = bridge(inputs["input_ids"])
    torch.testing.assert_close(got.log_softmax(-1), expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(again, got)
    assert (got - plain).abs().max() > 1e-2
    torch.testing.assert_close(bridge(inputs["input_ids"]), plain)
    hooked = bridge.run_with_hooks(inputs["input_ids"], fwd_hooks=lens_hooks(mask))
    torch.testing.assert_close(hooked, got, atol=1e-5, rtol=1e-5)
    clean = ids_of(reference, seed=1)
    with patch(bridge, mask, source=clean["input_ids"]), torch.no_grad():
        patched = bridge(inputs["input_ids"])
    with patch(reference, mask, source=clean):
        torch.testing.assert_close(
            patched.log_softmax(-1), logits(reference, inputs).log_softmax(-1), atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_hooks_act_inside_nnsight_traces(name):
    reference = load(families.build(name))
    mask, inputs = every_third(reference), ids_of(reference)
    with ablate(reference, mask):
        expected = logits(reference, inputs)
    model = nnsight.NNsight(families.build(name))
    with ablate(model, mask), torch.no_grad(), model.trace(**inputs):
        out = model.output.logits.save()
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    code = nnsight_code(model, mask, variable="mine")
    assert code.count("mine.") == 2 * len(mask.widths)
    assert "[0, 3, 6" in code


def test_a_plain_model_is_opened_as_it_is_inside_a_live_intervention():
    """Opening runs the model; the hooks that are live must neither act on that run nor hide the neurons."""
    for name in ("llama", "gpt2"):
        root = families.build(name)
        opened = resolve(root)
        a, b, inputs = every_third(opened), every_third(opened, start=1), ids_of(opened)
        with ablate(opened, a | b):
            expected = logits(opened, inputs)
        with ablate(root, a), patch(root, a - a, source=ids_of(opened)):
            inside = resolve(root)
            assert (
                inside.sites()["blocks.0.mlp.hook_post"].ins.keys()
                == opened.sites()["blocks.0.mlp.hook_post"].ins.keys()
            )
            with ablate(root, b):
                assert torch.equal(logits(opened, inputs), expected)
        with patch(root, a, source=ids_of(opened, length=9)):  # a length that the run of opening does not have
            resolve(root)


def test_bad_values_are_refused(tiny_model):
    model, other = tiny_model(), open_family("gpt2")
    mask, foreign = every_third(model), every_third(open_family("bloom"))
    calls = {
        "no such value.*'mean'": lambda: ablate(model, mask, value="men"),
        "value=None.*a finite number": lambda: ablate(model, mask, value=None),
        "no data, and a mask that carries no means": lambda: ablate(model, mask, value="mean"),
        "found: no data\n": lambda: ablate(model, mask, value="resample"),
        "a Task in place of a mask": lambda: ablate(model, TASK, value="mean", data=TASK),
        "an empty dict in place of a mask": lambda: patch(model, {}, source="the"),
        "an empty tuple in place of a mask": lambda: add(model, (), {}),
        "a set in place of a mask": lambda: nnsight_code(model, set()),
        "an int in place of a mask": lambda: lens_hooks(3),
        "factor='x'.*not a finite number": lambda: scale(model, mask, "x"),
        "nothing for blocks.0": lambda: add(model, mask, {}),
        r"\(3,\) for blocks.0": lambda: add(model, mask, {a: torch.ones(3) for a in mask}),
    }
    for text, call in calls.items():
        with unchanged(model.root), pytest.raises(ArgumentError, match=f"(?s){text}"):
            call()
    with pytest.raises(ArgumentError, match="from 1 up"):
        ablate(model, mask, value="mean", data=TASK, examples=0)
    for call in (ablate, lambda m, k: scale(m, k, 2), lambda m, k: patch(m, k, source="the")):
        with unchanged(other.root), pytest.raises(MaskError, match=r"2 sites of 128 neurons.*2 sites of 48 neurons"):
            call(other, foreign)
