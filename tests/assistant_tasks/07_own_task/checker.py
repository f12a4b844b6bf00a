"""Prompts and labels are as the rows have them."""

import json


def setup(folder):
    (folder / "reviews").mkdir()
    for split in ("train", "test"):
        rows = [{"text": f"the curry was {word}", "label": label} for word, label in (("good", "yes"), ("bad", "no"))]
        (folder / "reviews" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))


def check(found, folder):
    task = found["task"]
    assert sorted(example.prompt for example in task.test) == [
        "sentiment the curry was bad =>", "sentiment the curry was good =>",
    ]  # fmt: skip
    assert sorted(task.labels) == ["no", "yes"] and len(task.train) == 2
