import neuroscope as ns

model = ns.load("mini")
block = ns.NeuronMask.of({1: range(512)}, model)
tokens = model.tokenizer("sentiment the curry was good =>", return_tensors="pt")["input_ids"]
with ns.patch(model, block, source="sentiment the curry was bad =>"):
    last = model.logits({"input_ids": tokens})[0, -1]
