"""What `--help` says of options that several commands have, where the functions' docstrings speak of Python."""

from __future__ import annotations

from neuroscope.command_line.signatures import constant
from neuroscope.experiments.table import EXPERIMENTS

FEWEST = constant("neuroscope.checks:FEWEST_RANDOM")
DRAWING = [row.id for row in EXPERIMENTS.values() if row.fewest_seeds == FEWEST]
KINDS = "of the whole model, of the same layers, and as loud in these; a verdict on a mask rests on all three"
METHOD = "how neurons are scored: relp, exact ...; a wrong one lists all"

SAID = {
    "model": "mini (bundled), a Hub id, a local folder, or a .gguf file",
    "tasks": "mini, a folder of jsonl tasks, or catalogue names: sst2,mnli",
    "dtype": "of the weights, such as bfloat16",
    "device": "such as cuda; by default the processor",
    "device_map": "as in transformers, such as auto",
    "tokenizer": "name or folder of another tokenizer than the model's own",
    "batch_size": "examples per forward pass; by default chosen by tokens",
    "prompt": "of a folder of jsonl tasks: a template, such as 'Review: {text}\\nMood:'",
    "labels": "of a folder of jsonl tasks: the possible answers, with commas between them",
    "chat": "prompts in the model's chat template",
    "system": "the system message of a chat; by default the template's own, if any",
    "shots": "training examples that stand solved before every prompt",
    "max_tokens": "of a prompt; by default what the model's context allows",
    "too_long": "error, skip, or cut; by default cut with --max-tokens, else error",
    "metric": "accuracy, exact or rouge-l; by default by the kind of task",
    "neutral": "file of texts, one a line, to measure the loss on under each mask; none leaves this out; "
    "by default the model's",
    "unit": "hidden, output or head",
    "n": "test examples per task; by default all",
    "examples": "discovery examples per task; none: all",
    "value": "what ablated neurons become: zero, mean, resample, corrupt, or a number",
    "at": "at which tokens: last, prompt, answer, generated, or positions such as 0,-1; by default all",
    "when": "only where a neuron's own activation lies in this range, such as 0.5,2",
    "data": "the task whose discovery examples give the mean or the sample",
    "masks": "files of masks, or a folder of them",
}
