"""Rows near and beyond what a model or a task has room for."""

import families
import pytest
import torch
import transformers as hf
from torch import nn

import neuroscope as ns
from neuroscope import evaluation
from neuroscope.errors import ArgumentError, ModelError, TaskError
from neuroscope.tasks import Example, Task
from neuroscope.tasks.encoding import batches_for, encode, encode_prompts

LABELS = ("w5", "w6 w7 w8 w9", "w6 w7", "w81 w82 w7")
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0, 6.0, 9.0, 30.0]}
SHORT = 12  # positions up to which the short factors hold


def words_of(*numbers):
    return " ".join(f"w{50 + i % 45}" for i in numbers)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return families.tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def phi(words):
    config = hf.Phi3Config(
        **families.ROTARY, **families.TOKENS, rope_parameters=LONGROPE, original_max_position_embeddings=SHORT
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        root = hf.Phi3ForCausalLM(config).eval()
        for parameter in root.parameters():
            torch.nn.init.normal_(parameter, std=0.3) if parameter.ndim > 1 else None
    return ns.load(root, tokenizer=words)


def test_frequencies_follow_from_each_row_alone(phi):
    """Labels within and beyond the short factors, in batches of any size and in trees: as each text by itself."""
    lengths = (4, SHORT - 2, SHORT, SHORT + 1, SHORT + 20, SHORT - 1)
    test = [Example(words_of(*range(n, 2 * n)), LABELS[n % 4]) for n in lengths]
    task = Task("t", test=test, labels=LABELS)
    ids = lambda text: [int(word[1:]) for word in text.split()]  # noqa: E731
    right = torch.zeros(len(test), len(LABELS))
    for i, example in enumerate(test):
        for j, label in enumerate(LABELS):
            prompt, answer = ids(example.prompt), ids(label)
            with torch.no_grad():
                logits = phi.root(torch.tensor([prompt + answer[:-1]])).logits[0].log_softmax(-1)
            right[i, j] = sum(logits[len(prompt) - 1 + k, token] for k, token in enumerate(answer))
    assert not evaluation.prepare_task(phi, task).against_one_row(phi)
    for size in (1, 3, None, 6):
        found = evaluation.label_loglik(phi, evaluation.prepare_task(phi, task, batch_size=size))
        torch.testing.assert_close(found, right, atol=1e-5, rtol=1e-5)
    prepared = evaluation.prepare_task(phi, task)
    handle = phi.root.register_forward_hook(lambda *passed: None)  # a hook of a user's: no trees
    try:
        assert prepared.against_one_row(phi)
        torch.testing.assert_close(evaluation.label_loglik(phi, prepared), right, atol=1e-5, rtol=1e-5)
    finally:
        handle.remove()


def test_scores_and_texts_of_long_rows_do_not_depend_on_the_batch(phi):
    lengths = [4, 7, SHORT - 5, SHORT - 4, SHORT - 2, SHORT, SHORT + 9]
    examples = [Example(words_of(*range(3 * n, 4 * n)), "w5 w6 w7") for n in lengths]
    task = Task("t", train=examples, test=examples, kind="generation", max_new_tokens=5)
    one = ns.attribute(phi, task, batch_size=1)
    for address, scores in ns.attribute(phi, task, batch_size=7).items():
        torch.testing.assert_close(scores, one[address])
    prepared = [evaluation.prepare_task(phi, task, batch_size=size) for size in (1, 7)]
    alone, together = (evaluation.predict(phi, p) for p in prepared)
    assert alone == together
    groups = [sorted(p.index.tolist()) for p in prepared[1].prompts]
    assert groups == [[6], [5], [4], [3], [0, 1, 2]]  # within five tokens of the change, alone


def test_frequencies_that_grow_are_not_reached(words):
    """Dynamic NTK changes its frequencies beyond max_position_embeddings: longer rows are refused as for any model."""
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    model = ns.load(hf.LlamaForCausalLM(hf.LlamaConfig(**families.ROTARY, rope_parameters=rope)), tokenizer=words)
    assert model.short is None and model.context == 64
    with pytest.raises(ns.NeuroscopeError, match="a context of 64 tokens"):
        encode_prompts(model, Task("t", kind="generation", max_new_tokens=5), [Example(words_of(*range(60)), "w5")])


def test_rows_of_other_models_are_batched_as_before(words):
    model = ns.load(families.build("llama"), tokenizer=words)
    task = Task("t", kind="generation", max_new_tokens=5)
    items = encode_prompts(model, task, [Example(words_of(*range(n)), "w5") for n in (30, 3, 20)])
    assert [len(b.index) for b in batches_for(model, items, 3, new=5)] == [3]


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.up, self.down = nn.Linear(16, 24), nn.Linear(24, 16)

    def forward(self, x):
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        x = x + self.attention(x, x, x, attn_mask=later, need_weights=False)[0]
        return x + self.down(self.up(x).relu())


class OwnModel(nn.Module):
    """Ten learned positions, of a table or of a plain parameter, and no configuration that says so."""

    def __init__(self, is_table):
        super().__init__()
        self.is_table = is_table
        self.words, self.types = nn.Embedding(96, 16), nn.Embedding(5, 16)
        self.places = nn.Embedding(10, 16) if is_table else nn.Parameter(torch.randn(10, 16))
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(16, 96)

    def forward(self, input_ids):
        n = input_ids.shape[1]
        places = self.places(torch.arange(n)) if self.is_table else self.places[:n]
        x = self.words(input_ids) + places + self.types(torch.zeros_like(input_ids))
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def test_a_table_of_positions_is_the_context(words):
    model = ns.load(OwnModel(is_table=True).eval(), tokenizer=words)
    assert model.context == 10
    long = Task("t", train=[Example(words_of(*range(20)), "w6 w7")], labels=("w5", "w6 w7"))
    task = ns.Task("t", train=long.train, test=long.train, labels=long.labels)
    for use in (ns.evaluate, ns.attribute):
        with pytest.raises(TaskError, match="a context of 10 tokens"):
            use(model, task)
    cut = ns.Task("t", train=long.train, test=long.train, labels=long.labels, too_long="cut")
    with pytest.warns(UserWarning, match="1 of 1 prompts"):
        assert ns.evaluate(model, cut).manifest["prompts"]["cut"] == 1


@pytest.mark.parametrize(("n", "fits"), [(8, True), (9, True), (20, False)])
def test_positions_of_another_kind_are_told_when_they_end(words, n, fits):
    model = ns.load(OwnModel(is_table=False).eval(), tokenizer=words)
    assert model.context is None
    task = Task("t", test=[Example(words_of(*range(n)), "w6 w7")], labels=("w5", "w6 w7"))
    if fits:
        assert len(ns.evaluate(model, task).outcomes) == 1
        return
    with pytest.raises(ModelError, match=r"run a OwnModel on rows of 21 tokens\n.*found: RuntimeError: The size of"):
        ns.evaluate(model, task)


def test_the_context_of_an_encoder_and_a_decoder_with_tables(words):
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "d_model": 32}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "attention_window": [8]}
    tables = {"max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 32}
    led = hf.LEDForConditionalGeneration(hf.LEDConfig(vocab_size=96, **sizes, **heads, **tables))
    assert ns.load(led, tokenizer=words).context == 64
    for name in ("t5", "bloom"):
        assert ns.load(families.build(name), tokenizer=words).context is None


TEMPLATE = "w60 w61 {text} w62 w63"  # an instruction before and after


def cut_task(texts, template=TEMPLATE, **options):
    examples = [Example(template.format(text=words_of(*range(n))), "w5") for n in texts]
    return Task("t", test=examples, labels=("w5", "w6"), prompt=template, max_tokens=9, **options)


@pytest.mark.parametrize(("options", "before"), [({}, []), ({"shots": [Example("w70", "w5")]}, [70, 5])])
def test_the_task_s_template_is_not_cut(words, options, before):
    """The text loses its beginning; words that it shares with the template are its own."""
    model = ns.load(families.build("llama"), tokenizer=words)
    task = cut_task((3, 20), **options)
    room = 9 - 4 - len(before)
    for item, n in zip(encode(model, task, task.test), (3, 20), strict=True):
        own = [50 + i % 45 for i in range(n)][-room:]
        assert item.inputs == [*before, 60, 61, *own, 62, 63]
    assert ns.evaluate(model, task).manifest["prompts"]["cut"] == 1  # without a warning
    long = cut_task((3,), "w60 w61 w62 w63 w64 w65 w66 w67 w68 {text}")
    with pytest.raises(TaskError, match="a shorter template"):
        encode(model, long, long.test)


def test_cutting_is_warned_of_where_it_may_take_an_instruction(words):
    model = ns.load(families.build("llama"), tokenizer=words)
    with pytest.warns(UserWarning, match=r"2 of 2 prompts of task 't' are cut .* put what must stay into the template"):
        ns.evaluate(model, cut_task((20, 21)))
    with pytest.warns(UserWarning, match="1 of 2 prompts of task 't' are cut"):
        ns.evaluate(model, cut_task((3, 20), "{text}"))


@pytest.mark.parametrize("value", [True, 3, "shorten"])
def test_what_becomes_of_long_prompts_is_said_plainly(value):
    assert Task("t", too_long=None).when_too_long == "error"
    with pytest.raises(ns.NeuroscopeError, match=r"too_long(.|\n)*choose from 'error', 'skip', 'cut'$"):
        Task("t", too_long=value)


@pytest.mark.parametrize(
    ("source", "run", "positions", "asked", "found", "do"),
    [
        (
            (1, 4),
            (1, 5),
            None,
            r"patch\(source=...\) at blocks.0.mlp",
            "a source of 4 tokens, and a run of 5",
            "as many t",
        ),
        (
            (2, 4),
            (3, 4),
            None,
            r"patch\(source=...\) at blocks.0",
            "2 examples, and a run of 3",
            "one example, or of as",
        ),
        ((1, 4), (1, 4), [7], r"patch\(positions=...\): position 7", "a run of 4 tokens", "give -4 to 3"),
        (["w5", "w6 w7"], (1, 2), None, r"patch\(source=prompts\)", "prompts of 1 and 2 tokens", "as many tokens each"),
        ([], (1, 2), None, r"patch\(source=prompts\)", "no tokens", "give one prompt"),
        ([words_of(*range(70))], (1, 2), None, "a prompt of 70 tokens", "a context of 64 tokens", "shorter"),
    ],
)
def test_lengths_that_a_patch_cannot_join_are_told(words, source, run, positions, asked, found, do):
    model = ns.load(families.build("llama"), tokenizer=words)
    sites = model.sites()
    mask = ns.NeuronMask.of(families.thirds(sites), {a: s.width for a, s in sites.items()})
    source = torch.ones(source, dtype=torch.long) if isinstance(source, tuple) else source
    text = rf"{asked}.*\n +found: .*{found}.*\n +do: .*{do}"
    with pytest.raises(ArgumentError, match=text), torch.no_grad():  # noqa: SIM117
        with ns.patch(model, mask, source=source, positions=positions):
            model.root(torch.ones(run, dtype=torch.long))


@pytest.mark.parametrize(
    ("curves", "settings", "found", "do"),
    [
        (
            [1, 2, 3, 4],
            {},
            "curves over 4 layers, of the 6 that 3 segments of 2 or more want",
            "boundaries=1, or a low",
        ),
        ([1, 2, 3], {}, "over 3 layers, of the 6", "over more layers, or a lower min_size"),
        ([1, 2, 3, 4, 5, float("nan")], {}, "over 5 layers without gaps, of the 6", "boundaries=1"),
        ([1] * 7, {"min_size": 4}, "over 7 layers, of the 12 that 3 segments of 4", "over more layers"),
    ],
)
def test_curves_too_short_to_cut_are_told(curves, settings, found, do):
    with pytest.raises(ArgumentError, match=rf"segment\(curves, boundaries=2, min_size=.\)\n.*{found}.*\n.*{do}"):
        ns.segment(curves, **settings)
