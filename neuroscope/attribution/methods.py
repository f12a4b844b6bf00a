"""The one table of methods. To add one, write its function and add its row."""

from __future__ import annotations

from neuroscope.attribution.activations import activation, chance, lape
from neuroscope.attribution.exact import exact
from neuroscope.attribution.gradients import attribution_patching, grad_x_act, integrated_gradients
from neuroscope.attribution.reductions import REDUCTIONS
from neuroscope.attribution.relp import relp, rules_of
from neuroscope.attribution.request import Method
from neuroscope.attribution.weights import weight_x_grad

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("grad-x-act", grad_x_act, tuple(REDUCTIONS)),
        Method("integrated-gradients", integrated_gradients, tuple(REDUCTIONS)),
        Method("attribution-patching", attribution_patching, tuple(REDUCTIONS), corrupt=True),
        Method("relp", relp, tuple(REDUCTIONS), checks={"rules": rules_of}),
        Method("weight-x-grad", weight_x_grad, ("abs_of_sum", "signed")),
        Method("activation", activation, ("mean_abs",), additive=False),
        Method("lape", lape, ("entropy",), together=True, additive=False),
        Method("random", chance, ("none",), additive=False),
        Method("exact", exact, ("abs_of_sum", "signed"), partial=True),
    )
}
