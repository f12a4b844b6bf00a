import neuroscope as ns

states = ns.representations("mini", ns.load_tasks("mini")["nli-food"], n=4, normed=False)["nli-food"]
