import neuroscope as ns

new = ns.load_tasks("mini-sequence")
recipe = {"lr": 1e-3, "steps": 3, "batch_size": 8}
run = ns.continual("mini", [new["praise"], new["asks-who"]], "ncft", exclude=True, recipe=recipe, n=8)
metrics = run.metrics()
