import neuroscope as ns

model = ns.load("mini")
task = ns.load_tasks("mini")["nli-food"]
mask = ns.attribute(model, task, examples=32).top(0.10)
before = ns.evaluate(model, task, n=32).score
with ns.ablate(model, mask):
    after = ns.evaluate(model, task, n=32).score
