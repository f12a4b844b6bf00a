"""The facts of an evidence card in words: rows of part, what, value and the day on which it was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from neuroscope.markup import isolated
from neuroscope.masks.draws import DRAWN
from neuroscope.masks.evidence import PARTS

Row = tuple[str, str, str, str]


def rows_of(known: Mapping[str, Any]) -> list[Row]:
    """Every fact of `EvidenceCard.manifest`, and for each part that is missing how to measure it."""
    rows = [*_mask(known), *_found(known)]
    told = {"verdict": _verdict, "neutral": _neutral, "stability": _stability, "minimal": _minimal}
    for name, part in PARTS.items():
        of = known["evidence"].get(name)
        group = name.partition("-")[0]
        if of is None:
            cut = known["found"].get("selection")
            k = cut["k"] if isinstance(cut, Mapping) and "k" in cut else f"{known['neurons'] / max(known['of'], 1):.3g}"
            rows.append((group, part.title, f"not measured: {part.how.replace('{k}', isolated(k))}", ""))
            continue
        text = told[name](of) if name in told else _effect(of, name.partition("-")[2])
        rows.append((group, part.title, text + _elsewhere(of, known), of["measured"]))
    return rows


def percent(share: float) -> str:
    """A share in percent, with as few digits as it has.

    Example:
        >>> percent(0.001), percent(0.1001)
        ('0.1 %', '10 %')
    """
    return f"{100 * share:.3g} %"


def points(effect: Mapping[str, Any], match: str) -> str:
    """An effect beyond random neurons that were drawn like that, with its interval and p and q where they are known."""
    text = f"{_signed(effect['effect'])} points"
    if effect["low"] is not None and effect["high"] is not None:
        text += f" [{_signed(effect['low'])}, {_signed(effect['high'])}]"
    text += f" of score more than {DRAWN[match]} do"
    tested = [f"{name} = {effect[name]:.2g}" for name in ("p", "q") if effect[name] is not None]
    return f"{text}, {', '.join(tested)}" if tested else f"{text}, not tested"


def _signed(share: float | None) -> str:
    return "?" if share is None else f"{100 * share:.1f}"


def _number(value: float | None, form: str) -> str:
    return "?" if value is None else format(value, form)


def _mask(known: Mapping[str, Any]) -> Iterator[Row]:
    count, total = known["neurons"], known["of"]
    share = percent(count / total) if total else "of none"
    yield "mask", "size", f"{count:,} of {total:,} {known['unit']} neurons ({share}), identity {known['identity']}", ""
    layers = known["layers"]
    told = ", ".join(f"{isolated(label.removeprefix('blocks.'))}: {of['neurons']}" for label, of in layers.items())
    yield "mask", "neurons by layer", told, ""


def _found(known: Mapping[str, Any]) -> Iterator[Row]:
    found, model = known["found"], known["model"]
    if not found:
        yield "found", "how", "not noted: the mask was made by hand", ""
    if "operation" in found:
        yield "found", "how", f"other masks, combined by {isolated(found['operation'])}", ""
    if "match" in found:
        drawn = DRAWN.get(str(found["match"]), "random neurons")
        yield "found", "how", f"{drawn}, as many as in another mask, seed {isolated(found.get('seed', ''))}", ""
    if "method" in found:
        settings = [f"{key} {isolated(found[key])}" for key in ("reduction", "objective", "sign") if key in found]
        options = found.get("options")
        settings += [f"{isolated(k)} {isolated(v)}" for k, v in options.items()] if isinstance(options, Mapping) else []
        yield "found", "how", ", ".join([isolated(found["method"]), *settings]), ""
    if "examples" in found or "data_hash" in found:
        split, data = isolated(found.get("split", "")), isolated(found.get("data_hash", "not noted"))
        number = isolated(found.get("examples", "all"))
        yield "found", "on", f"{number} {split} examples of {isolated(known['name'])}, data {data}", ""
    if isinstance(found.get("selection"), Mapping):
        cut = [f"{isolated(key)} {isolated(value)}" for key, value in found["selection"].items()]
        yield "found", "cut", ", ".join(cut), ""
    if model:
        weights, dtype = isolated(model.get("fingerprint", "not noted")), isolated(model.get("dtype", ""))
        live = f", under {isolated(model['interventions'])}" if model.get("interventions") else ""
        yield "found", "model", f"{isolated(model.get('model', ''))}, weights {weights}, {dtype}{live}", ""


def _elsewhere(of: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    """Where it was measured on another model than the mask was found on, or under an intervention."""
    own = known["model"].get("fingerprint")
    other = (
        f"; on another model, weights {isolated(of['fingerprint'])}"
        if own and of["fingerprint"] not in ("", own)
        else ""
    )
    return other + (f"; under {isolated(', '.join(of['interventions']))}" if of["interventions"] else "")


def _effect(of: Mapping[str, Any], match: str) -> str:
    among = f" over {of['tests']:.0f} tests" if of["q"] is not None and of["tests"] is not None else ""
    if of["q_all"] is not None:
        among += f" of this kind, q = {of['q_all']:.2g} beside every kind (of the largest p)"
    return (
        f"{points(of, match)}{among}; {isolated(of['task'])}: {_signed(of['original'])} % with nothing off, "
        f"{_signed(of['score'])} % with these off (to {isolated(of['value'])}), {_signed(of['control'])} % with "
        f"random ones off; {_number(of['n'], '.0f')} test examples, {_number(of['n_random'], '.0f')} random masks"
    )


def _verdict(of: Mapping[str, Any]) -> str:
    text = f"{isolated(of['verdict'])}, among {_number(of['tasks'], '.0f')} tasks"
    if of["selectivity"] is not None:
        text += f"; selectivity {_signed(of['selectivity'])} points, its interval from {_signed(of['selectivity_low'])}"
    if of["strongest_effect"] is not None:
        text += f"; of other families {isolated(of['strongest'])} breaks it most, {_signed(of['strongest_effect'])}"
    if of["breaks_most_effect"] is not None:
        text += f"; of others' tasks these hit {isolated(of['breaks_most'])} hardest, "
        text += _signed(of["breaks_most_effect"])
    return text + (f"; breaks {percent(of['breaks'])} of their tasks" if of["breaks"] is not None else "")


def _neutral(of: Mapping[str, Any]) -> str:
    nats = {name: _number(of[name], ".2f") for name in ("loss", "random", "original")}
    q = f", q = {of['q']:.2g}" if of["q"] is not None else ""
    return (
        f"{nats['loss']} nats a token with these off, {nats['random']} with random ones off, {nats['original']} with "
        f"nothing off{q} ({isolated(of['texts'])})"
    )


def _stability(of: Mapping[str, Any]) -> str:
    text = (
        f"two such masks (k = {percent(of['k'] or 0)}), each found on {_number(of['examples'], '.0f')} examples, are "
        f"expected to overlap {_number(of['ceiling'], '.2f')} (Jaccard), by chance {_number(of['chance'], '.2f')}"
    )
    return text + (f"; reliability of the scores {of['full']:.2f}" if of["full"] is not None else "")


def _minimal(of: Mapping[str, Any]) -> str:
    share, random = percent(of["share"] or 0), DRAWN.get(of["match"], "random ones")
    if of["k"] is None:
        return f"no size up to {percent(of['largest'] or 0)} is shown to carry {share} alone" + (
            f": {isolated(of['why'])}" if of["why"] else ""
        )
    return (
        f"the top {percent(of['k'])} ({_number(of['neurons'], '.0f')} neurons) alone carry {_signed(of['only'])} % "
        f"[{_signed(of['low'])}, {_signed(of['high'])}] of what all neurons do, {random} {_signed(of['random'])} %: "
        f"the smallest measured size shown to carry {share} (others to {isolated(of['value'])})"
    )
