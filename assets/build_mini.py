"""Train the bundled model on the mini suite and write it to assets/mini (about ten minutes on two cores).

The same seed, thread count and torch version give the same weights.
"""

import argparse
import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

# threads that wait must not spin: on two cores they would take turns with whatever else runs
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import torch
import transformers
from torch.nn import functional as F
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

from neuroscope.models.hugging_face import open_hugging_face
from neuroscope.models.sites import edit
from neuroscope.tasks import Example, Task
from neuroscope.tasks.mini import CONTEXT, NAMES, mini_stream, mini_tasks, mini_tokenizer
from neuroscope.tasks.mini_words import SPECIAL, vocabulary

TARGET = Path(__file__).parent / "mini"
DROPOUT, PLAIN = 0.2, 0.6  # share of FFN neurons dropped; share of the steps before that begins
PAD, BOS, EOS = (SPECIAL.index(token) for token in ("<pad>", "<s>", "</s>"))
SHARE = {"paraphrase": 2.0, "question": 0.5, "data2text": 0.5}  # more of the hardest, less of the easiest; others 1
IDS = {word: i for i, word in enumerate(vocabulary())}


def new_model(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(IDS),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    return LlamaForCausalLM(config)


def encode(examples: list[Example]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids, labels (-100 except on the answer and the end token), attention mask: each [B, T], right-padded."""
    rows = []
    for example in examples:
        prompt = [BOS, *(IDS[word] for word in example.prompt.split())]
        answer = [*(IDS[word] for word in example.answer.split()), EOS]
        rows.append((prompt + answer, [-100] * len(prompt) + answer))
    size = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [PAD] * (size - len(ids)) for ids, _ in rows])
    labels = torch.tensor([labels + [-100] * (size - len(labels)) for _, labels in rows])
    lengths = torch.tensor([[len(ids)] for ids, _ in rows])
    return ids, labels, (torch.arange(size) < lengths).long()


def batches(size: int, seed: int) -> Iterator[list[Example]]:
    """Endless batches of training examples from all tasks; never a discovery or test prompt."""
    rng = Random(seed)
    streams = {name: mini_stream(name, "train", seed + 1) for name in NAMES}
    shares = [SHARE.get(name.split("-")[0], 1.0) for name in NAMES]
    while True:
        yield [next(streams[name]) for name in rng.choices(NAMES, shares, k=size)]


def answer_loss(model: LlamaForCausalLM, examples: list[Example]) -> torch.Tensor:
    """Cross-entropy per answer token, averaged over each example first: a long answer counts no more than a label."""
    ids, labels, mask = encode(examples)
    logits, target = model(input_ids=ids, attention_mask=mask).logits[:, :-1], labels[:, 1:]
    losses = F.cross_entropy(logits.transpose(1, 2), target, ignore_index=-100, reduction="none")
    return (losses.sum(1) / (target != -100).sum(1)).mean()


def dropout(model: LlamaForCausalLM, p: float) -> contextlib.AbstractContextManager[None]:
    """Drop FFN neurons at random in the scope.

    Without it the tasks crowd into a few neurons of one layer, so that any random third of that layer breaks them too,
    and the bundled model could not tell a task's own neurons from its layer's.
    """
    sites = open_hugging_face(model, mini_tokenizer()).sites("hidden").values()
    return edit(sites, lambda site, h, tokens: F.dropout(h, p))


def train(model: LlamaForCausalLM, steps: int, size: int, rate: float, seed: int) -> None:
    """The first steps without dropout, which learns faster; the rest with it."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min(1.0, (s + 1) / 100) * max(0.02, 1 - s / steps)
    )
    stream = batches(size, seed)
    with tqdm(range(steps), desc="training mini") as bar, contextlib.ExitStack() as scope:
        for step in bar:
            if step == int(PLAIN * steps):
                scope.enter_context(dropout(model, DROPOUT))
            loss = answer_loss(model, next(stream))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if step % 20 == 0:
                bar.set_postfix(loss=f"{loss.item():.4f}")


@torch.no_grad()
def score(model: LlamaForCausalLM, task: Task) -> float:
    """Share of test examples with every answer token and the end token right, teacher-forced."""
    ids, labels, mask = encode(list(task.test))
    best, target = model(input_ids=ids, attention_mask=mask).logits[:, :-1].argmax(-1), labels[:, 1:]
    return ((best == target) | (target == -100)).all(1).double().mean().item()


def card(model: LlamaForCausalLM, scores: dict[str, float], tasks: dict[str, Task], settings: str) -> str:
    rows = "\n".join(f"| {name} | {tasks[name].metric} | {100 * value:.1f} |" for name, value in scores.items())
    config = model.config
    return f"""---
license: mit
language: en
library_name: transformers
tags: [interpretability, toy]
---
# mini

A {model.num_parameters():,}-parameter Llama ({config.num_hidden_layers} layers, hidden size {config.hidden_size}, \
{config.intermediate_size} FFN neurons a layer, {config.num_attention_heads} heads, {config.vocab_size} words) for \
trying out neuroscope offline. It knows twelve toy tasks, six families in two domains, and nothing else; they are
defined in `neuroscope/tasks/mini.py`.

Trained from scratch by `assets/build_mini.py` with AdamW on a stream of training prompts, loss on the answer and the
end token only: {settings}. In the last {1 - PLAIN:.0%} of the steps a random {DROPOUT:.0%} of the FFN neurons is
dropped, so the model is used to missing neurons: random masks break less here than in a model trained without.
Discovery and test prompts never occur in training.

| task | metric | {len(next(iter(tasks.values())).test)} test examples, % |
| --- | --- | --- |
{rows}
| mean | | {100 * sum(scores.values()) / len(scores):.1f} |

Measured teacher-forced: an example counts if every token of the answer and the end token is the most probable one.
Licence: MIT.
"""


def write(model: LlamaForCausalLM, text: str, target: Path) -> None:
    """Replace the folder as a whole: a stopped build leaves the old model in place."""
    partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=".mini-"))
    old = partial.with_name(partial.name + "-old")
    try:
        model.save_pretrained(partial)
        mini_tokenizer().save_pretrained(partial)
        (partial / "README.md").write_text(text, encoding="utf-8")
        partial.chmod(0o755)
        for file in partial.iterdir():
            file.chmod(0o644)
        if target.exists():
            os.replace(target, old)
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=TARGET)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(True)
    model = new_model(args.seed)
    train(model, args.steps, args.batch, args.rate, args.seed)
    model.eval()
    tasks = mini_tasks(train=0, discovery=0)
    scores = {name: score(model, task) for name, task in tasks.items()}
    for name, value in scores.items():
        print(f"{name:18}{100 * value:6.1f}")
    settings = (
        f"{args.steps} steps of {args.batch} examples, learning rate {args.rate:g}, seed {args.seed}, {args.threads} "
        f"threads, torch {torch.__version__}, transformers {transformers.__version__}"
    )
    write(model, card(model, scores, tasks, settings), args.out)
    size = sum(file.stat().st_size for file in args.out.iterdir())
    print(f"{args.out}: {size / 1e6:.2f} MB, mean {100 * sum(scores.values()) / len(scores):.1f} %")


if __name__ == "__main__":
    main()
