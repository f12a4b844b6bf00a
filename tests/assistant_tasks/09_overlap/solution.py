import neuroscope as ns

masks = {
    name: ns.attribute("mini", ns.load_tasks("mini")[name], examples=32).top(0.10) for name in ("nli-food", "nli-film")
}
row = ns.overlap(masks).to_frame().iloc[0]
jaccard, chance = float(row["jaccard"]), float(row["chance_layer"])
