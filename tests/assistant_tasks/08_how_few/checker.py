"""As with everything else ablated by hand."""

import neuroscope as ns


def check(found, folder):
    model, task = ns.load("mini"), ns.load_tasks("mini")["nli-food"]
    scores = ns.attribute(model, task, examples=32)

    def measured(*masks):
        with ns.ablate(model, masks[0], value="mean", data=task) if masks else __import__("contextlib").nullcontext():
            return ns.evaluate(model, task, n=16).score

    full, empty = measured(), measured(scores.top(1.0))
    kept = {k: (measured(~scores.top(k)) - empty) / (full - empty) for k in (0.01, 0.1, 0.5)}
    assert found["share"] == min(k for k, faithful in kept.items() if faithful >= 0.9)
