import neuroscope as ns

task = ns.load_tasks("mini")["sentiment-food"]
mask = ns.attribute("mini", task, examples=32).top(20)
mask.save("mask.safetensors")
