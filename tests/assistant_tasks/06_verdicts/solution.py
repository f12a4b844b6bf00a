import neuroscope as ns

tasks = {name: ns.load_tasks("mini")[name] for name in ("sentiment-food", "sentiment-film", "nli-food")}
masks = {name: ns.attribute("mini", task, examples=32).top(0.10) for name, task in tasks.items()}
crossed = ns.cross_ablation("mini", tasks, masks, n_random=3, n=16, neutral=[])
verdicts = dict(crossed.verdicts().set_index("task")["verdict"])
