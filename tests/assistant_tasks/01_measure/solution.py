import neuroscope as ns

model = ns.load("mini")
task = ns.load_tasks("mini")["nli-film"]
accuracy = ns.evaluate(model, task, n=24).score
