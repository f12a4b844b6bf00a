import neuroscope as ns

model = ns.load("mini")
task = ns.load_tasks("mini")["nli-food"]
with ns.ablate(model, {3: list(range(256))}, at="last"):
    accuracy = ns.evaluate(model, task, n=12).score
