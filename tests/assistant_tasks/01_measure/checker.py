"""The share of right answers, counted by hand: the label whose tokens are likeliest."""

import torch

import neuroscope as ns


def check(found, folder):
    model, task = ns.load("mini"), ns.load_tasks("mini")["nli-film"]
    right = 0
    for example in task.test[:24]:
        likely = {}
        for label in task.labels:
            prompt = model.tokenizer(example.prompt, return_tensors="pt")["input_ids"]
            answer = model.tokenizer(" " + label, return_tensors="pt", add_special_tokens=False)["input_ids"]
            ids = torch.cat([prompt, answer], 1)
            with torch.no_grad():
                logprobs = model.root(ids).logits.log_softmax(-1)[0, prompt.shape[1] - 1 : -1]
            likely[label] = float(logprobs.gather(-1, answer[0][:, None]).sum())
        right += max(likely, key=likely.get) == example.answer
    assert abs(found["accuracy"] - right / 24) < 1e-6
