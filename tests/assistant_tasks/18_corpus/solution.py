import neuroscope as ns

prompts = [example.prompt for example in ns.load_tasks("mini")["sentiment-food"].test[:20]]
rows = ns.activations("mini", prompts, "2.17").to_frame()
largest = rows.loc[rows["2.17"].idxmax()]
text = prompts[int(largest["text"])]
