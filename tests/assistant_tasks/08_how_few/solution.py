import neuroscope as ns

tasks = {"nli-food": ns.load_tasks("mini")["nli-food"]}
scores = {name: ns.attribute("mini", task, examples=32) for name, task in tasks.items()}
found = ns.faithfulness("mini", tasks, scores, k=(0.01, 0.1, 0.5), value="mean", n_random=3, n=16)
share = float(found.minimal(0.9)["estimate"].iloc[0])
