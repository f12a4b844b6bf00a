"""The one table of methods. To add one, write its function and add its row."""

from __future__ import annotations

from neuroscope.attribution.attribution_patching import attribution_patching, direction_of, steps_of
from neuroscope.attribution.exact import exact
from neuroscope.attribution.gradients import grad_x_act, integrated_gradients
from neuroscope.attribution.reductions import REDUCTIONS
from neuroscope.attribution.relp import relp, rules_of
from neuroscope.attribution.request import Method
from neuroscope.attribution.tuning_change import base_of, change
from neuroscope.attribution.weights import weight_x_grad
from neuroscope.attribution.without_gradients import activation, chance, contrast, lape, selectivity

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("grad-x-act", grad_x_act, tuple(REDUCTIONS), by_token=True),
        Method(
            "integrated-gradients", integrated_gradients, tuple(REDUCTIONS), by_token=True, checks={"steps": steps_of}
        ),
        Method(
            "attribution-patching",
            attribution_patching,
            tuple(REDUCTIONS),
            corrupt=True,
            by_token=True,
            checks={"direction": direction_of, "steps": steps_of},
        ),
        Method("relp", relp, tuple(REDUCTIONS), by_token=True, checks={"rules": rules_of}),
        Method("weight-x-grad", weight_x_grad, ("abs_of_sum", "signed")),
        Method("activation", activation, ("mean_abs",), additive=False),
        Method("lape", lape, ("entropy",), together=True, additive=False),
        Method("selectivity", selectivity, ("mean", "mean_abs"), together=True, additive=False),
        Method("change", change, ("rms",), additive=False, checks={"base": base_of}),
        Method("contrast", contrast, ("abs_of_mean", "mean"), corrupt=True, additive=False),
        Method("random", chance, ("none",), additive=False),
        Method("exact", exact, ("abs_of_sum", "signed"), partial=True),
    )
}
