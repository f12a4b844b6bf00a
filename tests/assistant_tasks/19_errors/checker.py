"""Of a refused call, of one that is not, and of an error of somebody else's."""

import neuroscope as ns


def check(found, folder):
    advice = found["advice"]
    assert advice(lambda: None) is None
    assert "grad-x-act" in advice(lambda: ns.attribute("mini", ns.load_tasks("mini")["nli-food"], method="grad_x_act"))
    try:
        advice(lambda: 1 / 0)
    except ZeroDivisionError:
        return
    raise AssertionError("an error of somebody else's was swallowed")
