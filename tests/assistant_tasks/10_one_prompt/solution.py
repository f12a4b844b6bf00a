import neuroscope as ns

scores = ns.attribute("mini", "sentiment the curry was good =>", answer=" positive", foil=" negative")
frame = scores.to_frame()
best = frame.loc[frame["relevance"].idxmax()]
neuron = f"{int(best['layer'])}.{int(best['neuron'])}"
