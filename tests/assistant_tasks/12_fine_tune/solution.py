import neuroscope as ns

model = ns.load("mini")
task = ns.load_tasks("mini-sequence")["asks-who"]
mask = ns.attribute(model, task, examples=16).top(0.10)
adapter = ns.finetune(model, task, mask, steps=5, lr=1e-3, batch_size=8)
adapter.save("adapter.safetensors")
adapter.detach()
