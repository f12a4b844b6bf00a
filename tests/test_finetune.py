"""Fine-tuning: what it learns, that the rest keeps every bit, that it equals its definition, and that it resumes."""

import json
import math
import random
import shutil
from dataclasses import replace

import families
import pytest
import torch
from safetensors.torch import load_file
from state import changed, snapshot, unchanged
from tiny import tiny_model
from torch.nn import functional
from transformer_lens.model_bridge import TransformerBridge
from transformers import Trainer, TrainingArguments

from neuroscope.errors import (
    ArgumentError,
    FileError,
    MaskError,
    ModelError,
    NeuroscopeError,
    NumericalError,
    TaskError,
)
from neuroscope.evaluation import evaluate
from neuroscope.masks import NeuronMask
from neuroscope.models import load, resolve
from neuroscope.tasks import Example, Task
from neuroscope.tasks.encoding import UNSCORED, encode
from neuroscope.training import NeuronAdapter, NeuronTrainerMixin, WholeModel, finetune, finetuning
from neuroscope.training.checkpoints import last_checkpoint
from neuroscope.training.finetuning import train
from neuroscope.training.trainer import collate

NOUNS = ("food", "film", "soup", "story", "plot")
MOOD = {"good": "yes", "great": "yes", "bad": "no", "awful": "no"}


def reviews(n, seed):
    draw = random.Random(seed)
    words = [(draw.choice(NOUNS), draw.choice(list(MOOD))) for _ in range(n)]
    return [Example(f"Review : the {noun} was very {mood} Answer :", MOOD[mood]) for noun, mood in words]


MOODS = Task("moods", train=reviews(32, 0), test=reviews(40, 1), labels=("yes", "no"))
TELLING = Task("telling", train=[Example("the film was", "very good"), Example("a soup was", "so bad")])


def some(model, share=0.1, unit="hidden", seed=0):
    """A random share of the model's neurons."""
    widths = {a: s.width for a, s in resolve(model).sites(unit).items()}
    full = NeuronMask.of({a: range(w) for a, w in widths.items()}, widths, unit)
    few = {a: torch.arange(max(1, round(share * w))) for a, w in widths.items()}
    return NeuronMask.of(few, widths, unit).random_like(seed=seed) if share < 1 else full


def deltas(adapter):
    return torch.cat([p.detach().flatten() for p in adapter.parameters()])


# --- what it learns, and what it leaves alone


@pytest.mark.parametrize("style", ["causal", "seq2seq", "masked"])
def test_training_teaches_the_task_and_nothing_else_changes(style):
    model = tiny_model(style)
    before = snapshot(model.root)
    chance = evaluate(model, MOODS).score
    settings = {"arguments": {"optim": "sgd"}, "lr": 0.5} if style == "causal" else {"lr": 2e-2}
    adapter = finetune(model, MOODS, "ffn", steps=150, weight_decay=0.1, **settings)
    # random weights outside the FFNs, and dropout in two of the models: more is not there to be learnt
    assert evaluate(model, MOODS).score >= max({"causal": 0.9, "seq2seq": 0.7, "masked": 0.8}[style], chance + 0.05)
    losses = [entry["loss"] for entry in adapter.manifest["history"]]
    assert sum(losses[-5:]) / 5 < 0.5 * losses[0]
    assert len(adapter.mask) == sum(s.width for s in model.sites().values())
    adapter.detach()
    assert changed(before, snapshot(model.root)) == []
    assert evaluate(model, MOODS).score == chance


@pytest.mark.parametrize("optim", ["sgd", "adamw_torch"])
@pytest.mark.parametrize("unit", ["hidden", "output"])
def test_outside_the_mask_every_bit_stays(optim, unit):
    model = tiny_model()
    mask = some(model, 0.2, unit)
    weights = {n: p.detach().clone() for n, p in model.root.named_parameters()}
    adapter = finetune(
        model,
        MOODS,
        mask,
        steps=12,
        lr=0.05,
        weight_decay=0.5,
        arguments={"optim": optim, "gradient_accumulation_steps": 2},
    )
    live = dict(model.root.named_parameters())
    assert all(torch.equal(live[n], w) for n, w in weights.items())  # the base was not written
    adapter.merge()
    outside = {n: torch.ones(w.shape, dtype=torch.bool) for n, w in weights.items()}
    names = {id(p): n for n, p in live.items()}
    for address, neurons in mask.items():
        site = model.sites(unit)[address]
        for rows in [*site.out, *(r for found in site.ins.values() for r in found)]:
            rows.view(outside[names[id(rows.param)]])[..., neurons] = False
    for name, before in weights.items():
        assert torch.equal(live[name][outside[name]], before[outside[name]]), name
        inside = ~outside[name]
        assert not inside.any() or (live[name] != before)[inside].float().mean() > 0.9, name


def doubled():
    tiny = tiny_model()
    return load(tiny.root.double(), tokenizer=tiny.tokenizer)


@pytest.mark.parametrize("optim", ["sgd", "adamw_torch"])
def test_it_equals_gradient_masking(optim, monkeypatch):
    """The same run on the whole model, with every gradient outside the mask set to zero, and no weight decay.

    In float64, since Adam makes steps of full size out of gradients that are rounding errors.
    """
    steps, lr = 6, {"sgd": 0.3, "adamw_torch": 3e-3}[optim]
    model = doubled()
    mask = some(model, 0.3)
    shown = []
    monkeypatch.setattr(finetuning, "collate", lambda *args, **how: shown.append(collate(*args, **how)) or shown[-1])
    adapter = finetune(
        model, MOODS, mask, steps=steps, lr=lr, batch_size=8,
        arguments={"optim": optim, "lr_scheduler_type": "constant", "max_grad_norm": 0.5},
    )  # fmt: skip
    adapter.merge()
    twin = doubled()
    reference = twin.root
    inside = {id(p): torch.zeros(p.shape, dtype=torch.bool) for p in reference.parameters()}
    for address, neurons in mask.items():
        site = twin.sites()[address]
        for rows in [*site.out, *(r for found in site.ins.values() for r in found)]:
            rows.view(inside[id(rows.param)])[..., neurons] = True
    kind = {"sgd": torch.optim.SGD, "adamw_torch": torch.optim.Adam}[optim]
    optimizer = kind(reference.parameters(), lr=lr)
    for batch in shown[:steps]:
        optimizer.zero_grad()
        logits = reference(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten()).backward()
        for parameter in reference.parameters():
            parameter.grad.mul_(inside[id(parameter)])
        torch.nn.utils.clip_grad_norm_(reference.parameters(), 0.5)
        optimizer.step()
    trained, first = model.root.state_dict(), doubled().root.state_dict()
    for name, expected in reference.state_dict().items():
        assert float((trained[name] - expected).abs().max()) < 1e-6, name
    assert max(float((trained[n] - first[n]).abs().max()) for n in first) > 5e-3


@pytest.mark.parametrize("style", ["causal", "seq2seq", "masked"])
def test_batches_score_answer_and_end_and_nothing_else(style):
    model = tiny_model(style)
    tokenizer, end = model.tokenizer, [] if style == "masked" else [2]
    tasks = [(task, example) for task in (MOODS, TELLING) for example in task.train[:2]]
    items = [encode(model, task, [example], end=style != "masked")[0] for task, example in tasks]
    batch = collate(items, 0, style)
    rows = []
    for _, example in tasks:
        prompt = tokenizer(example.prompt, add_special_tokens=False)["input_ids"]
        answer = tokenizer(example.answer, add_special_tokens=False)["input_ids"] + end
        if style == "causal":  # the model shifts: a label stands at its own token
            rows.append(([1, *prompt, *answer], [UNSCORED] * (1 + len(prompt)) + answer))
        elif style == "seq2seq":
            rows.append(([*prompt, 2], answer))
        else:
            middle = [UNSCORED] * (1 + len(prompt))
            rows.append(([1, *prompt, *[4] * len(answer), 2], [*middle, *answer, UNSCORED]))
    found = []
    for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
        n = int(mask.sum())
        assert mask.tolist() == [1] * n + [0] * (len(mask) - n)  # padded on the right
        m = n if style != "seq2seq" else int((labels != UNSCORED).sum())
        assert (labels[m:] == UNSCORED).all()
        found.append((ids[:n].tolist(), labels[:m].tolist()))
    assert sorted(found) == sorted(rows)
    if style == "seq2seq":
        shown = [
            row[: int(n)].tolist() for row, n in zip(batch["decoder_input_ids"], batch["decoder_attention_mask"].sum(1))
        ]
        assert sorted(shown) == sorted([0, *answer[:-1]] for _, answer in rows)


def test_several_tasks_are_mixed_and_generation_learns_to_end():
    model = tiny_model()
    adapter = finetune(model, {"moods": MOODS, "telling": TELLING}, "ffn", epochs=40, lr=1e-2, batch_size=17)
    assert adapter.manifest["tasks"] == ["moods", "telling"]
    assert adapter.manifest["examples"] == 34
    assert evaluate(model, TELLING, "train").score == 1.0
    assert list(evaluate(model, TELLING, "train").table["prediction"]) == ["very good", "so bad"]
    assert evaluate(model, MOODS).score == 1.0


def test_held_out_examples_stop_the_training_and_the_best_state_returns():
    model = tiny_model()
    examples = reviews(20, 3)
    rng = random.Random(5)
    noise = Task("noise", train=[Example(e.prompt, rng.choice(["yes", "no"])) for e in examples], labels=("yes", "no"))
    adapter = finetune(model, noise, "ffn", steps=200, lr=0.02, dev=0.25, patience=2, every=5)
    losses = [entry["eval_loss"] for entry in adapter.manifest["history"] if "eval_loss" in entry]
    best = losses.index(min(losses))
    assert (adapter.manifest["examples"], adapter.manifest["held_out"]) == (15, 5)
    assert len(losses) == best + 1 + 2 < 40  # two judgements without improvement
    again = finetune(tiny_model(), noise, "ffn", steps=200, lr=0.02, dev=0.25, patience=2, every=5)
    assert torch.equal(deltas(adapter), deltas(again))
    order = random.Random(0).sample(range(20), 20)[:5]  # the held-out ones, of seed 0
    held_out = encode(model, noise, [noise.train[i] for i in sorted(order)], end=True)
    batch = collate(held_out, 0, "causal")
    with torch.no_grad():
        assert float(model.root(**batch).loss) == pytest.approx(losses[best], rel=1e-5)


# --- what it costs


def test_gradients_and_optimizer_states_are_seven_percent_of_full_fine_tuning():
    model = tiny_model()
    sizes = {}
    for name, mask in (("all", None), ("tenth", some(model, 0.1))):
        seen = []

        class Count(torch.optim.Adam):
            def step(self, *args, **kwargs):
                super().step(*args, **kwargs)
                held = [p for group in self.param_groups for p in group["params"]]
                states = [v for p in held for v in self.state[p].values() if torch.is_tensor(v) and v.ndim]
                everything = [p for p in model.root.parameters() if p.grad is not None]
                seen.append(sum(t.numel() * t.element_size() for t in [p.grad for p in everything] + states))

        adapter = WholeModel(model) if mask is None else NeuronAdapter(model, mask)
        with adapter.alone():
            optimizer = Count([p for p in model.root.parameters() if p.requires_grad])
            batch = collate(encode(model, MOODS, MOODS.train, end=True), 0, "causal")
            model.root(**batch).loss.backward()
            optimizer.step()
        model.root.zero_grad()
        sizes[name] = seen[0]
        assert seen[0] == 3 * 4 * adapter.n_parameters
        adapter.detach()
    assert sizes["tenth"] <= 0.07 * sizes["all"]


def test_activation_checkpointing_and_accumulation_do_not_change_the_result():
    plain = deltas(finetune(tiny_model(), MOODS, some(tiny_model(), 0.3), steps=5))
    model = tiny_model()
    with unchanged(model.root):
        adapter = finetune(model, MOODS, some(model, 0.3), steps=5, arguments={"gradient_checkpointing": True})
        assert torch.equal(deltas(adapter), plain)
        adapter.detach()
    halves = finetune(
        model, MOODS, some(model, 0.3), steps=5, batch_size=16, arguments={"gradient_accumulation_steps": 2}
    )
    assert torch.allclose(deltas(halves), plain, atol=1e-5)
    with pytest.raises(ArgumentError, match=r"(?s)batch_size=16 with gradient_accumulation_steps=3.*multiple of 3"):
        finetune(other := tiny_model(), MOODS, some(other), arguments={"gradient_accumulation_steps": 3})
    with pytest.raises(ArgumentError, match="4 per device, 1 part.s. and 1 process.es.: 4 a step"):
        finetune(other, MOODS, some(other), batch_size=16, arguments={"per_device_train_batch_size": 4})
    with pytest.raises(ArgumentError, match=r"gradient_accumulation_steps=1\.5"):
        finetune(other, MOODS, some(other), arguments={"gradient_accumulation_steps": 1.5})


def test_activation_checkpointing_still_ends_the_backward_pass_at_the_lowest_trained_layer():
    model = tiny_model()
    last = list(model.sites())[-1]
    mask = NeuronMask.of({last: [1, 2]}, {a: s.width for a, s in model.sites().items()})
    needs = []
    first, second = model.root.model.layers
    handles = [b.register_forward_hook(lambda m, args, out: needs.append(out.requires_grad)) for b in (first, second)]
    finetune(model, MOODS, mask, steps=1, arguments={"gradient_checkpointing": True})
    for handle in handles:
        handle.remove()
    assert needs == [False, True]


def test_gradients_that_were_there_stay():
    model = tiny_model()
    model.root(torch.arange(9)[None]).logits.sum().backward()
    with unchanged(model.root):
        finetune(model, MOODS, some(model), steps=2).detach()


# --- checkpoints


def dropping(seed=0):
    """A model with dropout, so that the random state matters, and its words."""
    root = families.build("gpt2", seed)
    for module in root.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.2
    return load(root, tokenizer=tiny_model().tokenizer)


@pytest.mark.parametrize("mask", ["some", None])
def test_a_resumed_run_equals_the_uninterrupted_one(mask, tmp_path):
    def run(output, **more):
        model = dropping()
        chosen = some(model, 0.3) if mask else None
        return finetune(model, MOODS, chosen, steps=12, batch_size=5, lr=1e-3, every=4, output=output, **more)

    whole = run(tmp_path / "whole")
    assert sorted(p.name for p in (tmp_path / "whole").iterdir()) == ["checkpoint-12", "checkpoint-8"]
    shutil.copytree(tmp_path / "whole" / "checkpoint-8", tmp_path / "killed" / "checkpoint-8")
    (tmp_path / "killed" / "checkpoint-12").mkdir()  # a kill came while this one was written
    (tmp_path / "killed" / "checkpoint-12" / "trainer_state.json").write_text("{")
    resumed = run(tmp_path / "killed", resume_from_checkpoint=True)
    by_path = run(tmp_path / "other", resume_from_checkpoint=tmp_path / "whole" / "checkpoint-8")
    fresh = run(tmp_path / "fresh", resume_from_checkpoint=True)  # nothing there yet
    for other in (resumed, by_path, fresh):
        assert torch.equal(deltas(other), deltas(whole))
    first = load_file(tmp_path / "whole" / "checkpoint-8" / "adapter.safetensors")
    assert not all(
        torch.equal(v, load_file(last_checkpoint(tmp_path / "whole") / "adapter.safetensors")[k])
        for k, v in first.items()
    )


def test_checkpoints_hold_the_deltas_alone(tmp_path):
    model = tiny_model()
    adapter = finetune(model, MOODS, some(model), steps=2, output=tmp_path)
    folder = last_checkpoint(tmp_path)
    stored = load_file(folder / "adapter.safetensors")
    assert sum(v.numel() for k, v in stored.items() if k.startswith("deltas/")) == adapter.n_parameters
    sizes = {p.name: p.stat().st_size for p in folder.iterdir()}
    assert not [n for n in sizes if n.startswith(("model", "pytorch_model", "config"))]
    assert sizes["optimizer.pt"] < 8 * adapter.n_parameters + 20_000
    other = tiny_model()
    NeuronAdapter.load(other, folder / "adapter.safetensors")
    assert evaluate(other, MOODS).table.equals(evaluate(model, MOODS).table)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    model = tiny_model()
    mask = some(model, 0.3)
    finetune(model, MOODS, mask, steps=4, output=tmp_path).detach()
    checkpoint = last_checkpoint(tmp_path)

    def resume(found, *, model=model, task=MOODS, mask=mask, output=tmp_path, **changes):
        settings = {"steps": 4, "resume_from_checkpoint": checkpoint} | changes
        with unchanged(model.root), pytest.raises(FileError, match=found):
            finetune(model, task, mask, output=output, **settings)

    resume("another run: settings", lr=1e-2)
    resume("another run: mask", mask=~mask)
    resume("another run: mask", mask=None)
    resume("another run: tasks", task=TELLING)
    resume("another run: base", model=tiny_model(seed=1))
    resume("another run: settings", resume_from_checkpoint=True, steps=5)
    resume("earlier run", resume_from_checkpoint=False)
    resume("no complete checkpoint", resume_from_checkpoint=tmp_path / "none")
    whole = (checkpoint / "adapter.safetensors").read_bytes()
    (checkpoint / "adapter.safetensors").write_bytes(whole[:100])
    resume("adapter.safetensors")
    (checkpoint / "run.json").write_text("[]")
    resume("damaged")


# --- every parameter


def test_the_whole_model_can_be_trained_and_taken_back(tmp_path):
    model = tiny_model()
    before = snapshot(model.root)
    whole = finetune(model, MOODS, None, steps=60, lr=3e-3)
    assert isinstance(whole, WholeModel)
    assert whole.n_parameters == sum(p.numel() for p in model.root.parameters())
    assert evaluate(model, MOODS).score == 1.0

    def logits(root):
        with torch.no_grad():
            return root(torch.arange(9)[None]).logits

    trained = logits(model.root)
    whole.save(tmp_path / "w")
    whole.export(tmp_path / "merged")
    whole.unmerge()
    assert changed(before, snapshot(model.root)) == []
    whole.export(tmp_path / "unmerged")
    whole.merge()
    assert torch.equal(logits(model.root), trained)
    for folder in ("merged", "unmerged"):
        assert torch.equal(logits(load(tmp_path / folder).root), trained)
    other = tiny_model()
    again = WholeModel.load(other, tmp_path / "w")
    assert torch.equal(logits(other.root), trained)
    again.detach()
    assert changed(before["weights"], snapshot(other.root)["weights"]) == []
    with pytest.raises(ModelError, match="this model"):
        WholeModel.load(tiny_model(seed=1), tmp_path / "w")
    with pytest.raises(ModelError, match="not in the model"):
        whole.unmerge() or whole.unmerge()
    with pytest.raises(FileError, match="WholeModel, format"):
        NeuronAdapter.load(tiny_model(), tmp_path / "w")
    assert all(p.requires_grad for p in model.root.parameters())


# --- manners


def test_training_is_silent_and_leaves_no_trace(capfd):
    model = tiny_model()
    bars = []

    def progress(steps, desc):
        seen = []
        bars.append((desc, seen))
        for step in steps:
            seen.append(step)
            yield step

    before = snapshot(model.root)
    first = finetune(model, MOODS, some(model), steps=7, progress=progress, dev=0.2)
    kept = deltas(first)
    first.detach()
    assert changed(before, snapshot(model.root)) == []
    assert bars == [("fine-tune", list(range(7)))]
    torch.manual_seed(99)
    random.seed(99)
    second = finetune(model, MOODS, some(model), steps=7, dev=0.2)
    assert torch.equal(deltas(second), kept)  # the global generators are not an input either
    assert not torch.equal(deltas(finetune(tiny_model(), MOODS, some(model), steps=7, dev=0.2, seed=1)), kept)
    assert capfd.readouterr() == ("", "")


def test_an_error_takes_the_adapter_off_again():
    model = tiny_model()
    for mask in (some(model), None):

        def progress(steps, desc):
            for step in steps:
                if step == 2:
                    raise KeyboardInterrupt
                yield step

        with unchanged(model.root), pytest.raises(KeyboardInterrupt):
            finetune(model, MOODS, mask, steps=5, progress=progress)
        with unchanged(model.root), pytest.raises(NumericalError, match="lower lr"):
            finetune(model, MOODS, mask, steps=5, lr=1e30, arguments={"optim": "sgd", "max_grad_norm": 0})


def test_bad_input_is_refused(tmp_path):
    model = tiny_model()
    mask = some(model)
    empty = Task("empty", test=MOODS.test, labels=MOODS.labels)
    other = NeuronMask.of({}, dict.fromkeys(mask.widths, 5))

    def refused(kind, found, *args, **kwargs):
        with unchanged(model.root), pytest.raises(kind, match=found) as caught:
            finetune(*args, **kwargs)
        assert isinstance(caught.value, NeuroscopeError)
        assert caught.value.do

    refused(TaskError, "train examples of task 'empty'", model, empty, mask)
    refused(TaskError, "train examples of task 'empty'", model, [MOODS, empty], mask)
    refused(MaskError, "the model has", model, MOODS, other)
    refused(MaskError, "empty mask", model, MOODS, mask - mask)
    refused(ArgumentError, "no task", model, [], mask)
    refused(ArgumentError, "str", model, "moods", mask)
    refused(MaskError, "'all' for a neuron", model, MOODS, "all")
    refused(ArgumentError, "steps=0", model, MOODS, mask, steps=0)
    refused(ArgumentError, "batch_size=2.5", model, MOODS, mask, batch_size=2.5)
    refused(ArgumentError, "dev=1", model, MOODS, mask, dev=1)
    refused(ArgumentError, "epochs", model, MOODS, mask, epochs=0)
    refused(ArgumentError, "learning_rate", model, MOODS, mask, arguments={"learing_rate": 1})
    refused(ArgumentError, "weight_decay", model, MOODS, mask, wight_decay=1)
    refused(ArgumentError, "output", model, MOODS, mask, resume_from_checkpoint=True)
    refused(ModelError, "tokenizer", load(families.build("llama")), MOODS, "ffn")
    compiled = torch.compile(model.root, backend="eager")
    for chosen in (mask, None):
        refused(ModelError, "compile", compiled, MOODS, chosen)
        words = families.tokenizer(tmp_path)
        bridge = TransformerBridge.boot_transformers(
            "b", hf_model=families.build("gpt2"), tokenizer=words, device="cpu"
        )
        refused(ModelError, "open the Hugging Face model itself", bridge, MOODS, chosen)


def test_logits_are_made_at_scored_positions_alone():
    model, seen = tiny_model(), []
    head = model.root.get_output_embeddings()
    forward = head.forward
    head.forward = lambda hidden: seen.append(tuple(hidden.shape[:2])) or forward(hidden)
    finetune(model, MOODS, some(model), steps=2, batch_size=8)
    assert seen == [(1, 16)] * 2  # an answer of one token and the end, of eight examples


@pytest.mark.parametrize(("parts", "smoothing"), [(1, 0.0), (2, 0.0), (1, 0.1)])
def test_a_step_of_the_whole_model_follows_the_gradient_of_the_mean_over_answer_tokens(parts, smoothing):
    """One step of SGD on all examples, against torch's own loss of all logits, smoothed or not."""
    task = replace(TELLING, train=[*TELLING.train, *MOODS.train[:6]])  # answers of different lengths
    model, twin = doubled(), doubled()
    how = {"optim": "sgd", "lr_scheduler_type": "constant", "max_grad_norm": 0, "gradient_accumulation_steps": parts}
    finetune(model, task, None, steps=1, lr=0.1, batch_size=8, arguments=how | {"label_smoothing_factor": smoothing})
    batch = collate(encode(twin, task, task.train, end=True), 0, "causal")
    twin.root.requires_grad_(True)
    logits = twin.root(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    loss = functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), label_smoothing=smoothing
    )
    loss.backward()
    live = dict(model.root.named_parameters())
    for name, parameter in twin.root.named_parameters():
        torch.testing.assert_close(live[name], parameter.detach() - 0.1 * parameter.grad, atol=1e-8, rtol=1e-6)


# --- the mixin on other trainers


def lines(model):
    batch = collate(encode(model, MOODS, MOODS.train, end=True), 0, "causal")
    return [{k: v[i] for k, v in batch.items()} for i in range(len(MOODS.train))]


def test_the_mixin_makes_any_trainer_train_the_adapter(tmp_path):
    class Mine(NeuronTrainerMixin, Trainer):
        pass

    model = tiny_model()
    adapter = NeuronAdapter(model, some(model, 0.3))
    weights = {n: p.detach().clone() for n, p in model.root.named_parameters() if "neuron_deltas" not in n}
    with torch.random.fork_rng():
        arguments = TrainingArguments(
            str(tmp_path), max_steps=6, learning_rate=1e-2, report_to="none", disable_tqdm=True, use_cpu=True,
            save_steps=3, weight_decay=0.1, logging_strategy="no", dataloader_pin_memory=False,
        )  # fmt: skip
        trainer = Mine(adapter=adapter, run={"mine": 1}, model=model.root, args=arguments, train_dataset=lines(model))
        first = float(trainer.evaluate(lines(model))["eval_loss"])
        trainer.train()
        assert float(trainer.evaluate(lines(model))["eval_loss"]) < 0.7 * first
    parameters, ids = model.root.num_parameters(exclude_embeddings=True), lines(model)[0]["input_ids"]
    for times in (1, 3):  # transformers' estimate, counted at the first step: the adapter's parameters are among them
        assert trainer.floating_point_ops({"input_ids": ids.repeat(times)}) == 6 * parameters * times * ids.numel()
    assert trainer.floating_point_ops({"inputs_embeds": torch.zeros(1, 2, 8)}) == 0
    held = [p for group in trainer.optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in adapter.parameters()}
    live = dict(model.root.named_parameters())
    assert all(torch.equal(live[n], w) for n, w in weights.items())
    assert json.loads((tmp_path / "checkpoint-6" / "run.json").read_text()) == {"mine": 1}
    assert math.isfinite(first)


def test_the_mixin_mixes_into_trl(tmp_path):
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")

    class Mine(NeuronTrainerMixin, trl.SFTTrainer):
        pass

    model = tiny_model()
    adapter = NeuronAdapter(model, some(model, 0.3))
    weights = {n: p.detach().clone() for n, p in model.root.named_parameters() if "neuron_deltas" not in n}
    arguments = trl.SFTConfig(
        str(tmp_path), max_steps=3, learning_rate=1e-2, report_to="none", disable_tqdm=True, use_cpu=True, bf16=False,
        save_steps=3, dataloader_pin_memory=False, max_length=32,
    )  # fmt: skip
    rows = datasets.Dataset.from_list([{"prompt": e.prompt, "completion": " " + e.answer} for e in MOODS.train])
    with torch.random.fork_rng():
        trainer = Mine(
            adapter=adapter, model=model.root, args=arguments, train_dataset=rows, processing_class=model.tokenizer
        )
        trainer.train()
    live = dict(model.root.named_parameters())
    assert all(torch.equal(live[n], w) for n, w in weights.items())
    assert float(deltas(adapter).abs().max()) > 1e-3
    NeuronAdapter.load(tiny_model(), tmp_path / "checkpoint-3" / "adapter.safetensors")


@pytest.mark.parametrize("parts", [1, 2])
def test_a_penalty_is_added_once_per_step(parts):
    """Under SGD a penalty of slope c moves every number by lr * c a step; it is made to outweigh the task."""
    model, slope, lr, steps = tiny_model(), 1e4, 1e-5, 3
    adapter = NeuronAdapter(model, some(model))
    plain = {"optim": "sgd", "lr_scheduler_type": "constant", "gradient_accumulation_steps": parts, "max_grad_norm": 0}

    def penalty():
        return slope * sum(p.sum() for p in adapter.parameters())

    train(adapter, MOODS, {"steps": steps, "lr": lr, "batch_size": 4, "arguments": plain}, penalty=penalty)
    torch.testing.assert_close(
        deltas(adapter), torch.full_like(deltas(adapter), -lr * slope * steps), atol=0, rtol=1e-2
    )
    adapter.detach()
