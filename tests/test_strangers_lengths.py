"""Rows near and beyond what a model or a task has room for."""

import families
import pytest
import torch
import transformers as hf

import neuroscope as ns
from neuroscope import evaluation
from neuroscope.tasks import Example, Task
from neuroscope.tasks.encoding import batches_for, encode_prompts

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
