"""Score and fine-tune in several processes; started by `python`, the same script is one process.

torchrun --nproc-per-node 4 tutorials/several_processes.py
accelerate launch --num_processes 4 tutorials/several_processes.py
"""

import sys

from accelerate import PartialState

import neuroscope as ns

state = PartialState()  # joins the processes that were started together, and picks this one's device
model = ns.load("mini", device=state.device)
task = ns.load_tasks("mini")["sentiment-food"]

scores = ns.attribute(model, task, examples=64)  # each process its share of the examples; the same scores in all
adapter = ns.finetune(model, task, scores.top(0.10), steps=20, batch_size=16)  # 16 examples a step, of all together
adapter.save(sys.argv[1] if len(sys.argv) > 1 else "adapter.safetensors")
state.destroy_process_group()
