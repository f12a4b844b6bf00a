import neuroscope as ns

mask = ns.attribute("mini", ns.load_tasks("mini")["sentiment-film"], examples=32).top(0.05)
controls = [mask.random_like(seed=seed, match="layer") for seed in (0, 1, 2)]
