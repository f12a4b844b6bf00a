import neuroscope as ns

model = ns.load("mini")
tokens = model.tokenizer("sentiment the curry was good =>", return_tensors="pt")
with ns.scale(model, "2.17", 2.0):
    logits = model.logits({"input_ids": tokens["input_ids"]})
