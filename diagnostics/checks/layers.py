"""Does every layer get a gradient, of every term, and none of them a vanishing one?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from ..findings import Finding
from ..measurements import Measurements, late
from . import pulls
from .outcome import Outcome, Question
from .words import layer, listed_layers, name, number, plural, span, steps_of

# Share of the entries of a layer without any gradient. In tanh networks none is exactly zero; units
# of a rectifier network that are off for a whole batch are, and so are rows of an embedding.
MOSTLY_DEAD = 0.9
# Share of the entries below a millionth of the largest of the network (`NEAR_ZERO`), about where a
# float32 gradient has no digit left.
SATURATED = 0.5
# Root mean square of the gradient's entries beside that of the strongest layer. In the Helmholtz
# and convection runs, good or bad, the layers are within a factor of 30.
VANISHING = 1e-3

QUESTION = Question(
    "layer health",
    f"a layer with no gradient at all fails; one with {MOSTLY_DEAD:.0%} of its entries at exactly "
    f"zero, {SATURATED:.0%} near zero, or a root mean square of {VANISHING:g} of the strongest "
    "layer's warns; a layer that a single term does not reach is noted",
    "gradient_histograms",
)
_SOURCE = "observed by gradpath; Glorot, Bengio, AISTATS 2010 (gradients by layer)"


def layer_health(seen: Measurements) -> Outcome:
    """Looks at the gradients that each layer gets, late in the training."""
    norms = {term: found for term in seen.terms if not (found := pulls.in_layers(seen, term)).empty}
    if not norms:
        return QUESTION.not_measured(
            "no gradients by layer were recorded; the instrument `gradient_statistics` does"
        )
    moving = {term: found for term, found in norms.items() if (found > 0).any(axis=None)}
    if not moving:
        return QUESTION.answered("no layer has a gradient")
    recent = _strongest(moving)
    dead = [str(layer) for layer in recent if (recent[layer] == 0).all()]
    findings = [_dead(seen, recent, dead)] if dead else []
    rest = [str(layer) for layer in recent if layer not in dead]
    findings += _mostly(seen, moving, rest, "gradient_zeros", MOSTLY_DEAD)
    findings += _mostly(seen, moving, rest, "gradient_near_zeros", SATURATED)
    sizes = _sizes(seen, moving)
    profile = (recent.median() / np.sqrt(sizes)).reindex(rest).dropna()
    profile = profile[profile > 0] / profile.max()
    findings += _vanishing(seen, recent, profile)
    findings += _unreached(seen, moving, dead)
    if profile.empty:
        text = "how many entries a layer has is not known, so layers were not compared"
    else:
        text = (
            f"the weakest of {plural(len(recent.columns), 'layer')}, "
            f"{layer(str(profile.idxmin()))}, has entries of {number(float(profile.min()))} of the "
            f"strongest, {layer(str(profile.idxmax()))} ({span(recent.index)})"
        )
    if dead:
        text = f"no gradient in {listed_layers(dead)}; {text}"
    return QUESTION.answered(text, findings)


def _strongest(norms: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Returns late norms of all terms together: steps down, layers across."""
    squares = [late(found) ** 2 for found in norms.values()]
    total = squares[0].fillna(0.0)
    for each in squares[1:]:
        total = total.add(each, fill_value=0.0)
    return total[list(squares[0].columns)] ** 0.5


def _sizes(seen: Measurements, norms: dict[str, pd.DataFrame]) -> pd.Series:
    """Returns how many entries each layer has, from norm^2 = n (mean^2 + std^2) of magnitudes."""
    found = []
    for term in norms:
        norm = seen.in_layers("gradient_norm", term)
        mean, deviation = (seen.in_layers(f"gradient_{each}", term) for each in ("mean", "std"))
        found.append((pulls.ratio(norm**2, mean**2 + deviation**2)).median())
    return pd.concat(found, axis=1).max(axis=1)


def _dead(seen: Measurements, recent: pd.DataFrame, dead: list[str]) -> Finding:
    return Finding(
        "GP501",
        "fail",
        f"No gradient reaches {listed_layers(dead)}: all entries are exactly zero, of every "
        f"term ({_where(recent)}).",
        {
            "layers": dead,
            "steps": steps_of(recent),
            "batch": seen.batch("gradient_norm"),
            "statistic": "gradient_norm",
        },
        (
            "Look at what the layer puts out: units of a rectifier that are off for all inputs "
            "stay so. A smaller learning rate, a leaky rectifier or another start revives them.",
            "Check that the layer's output is used, and not detached.",
            "For equations of second order use an activation with a second derivative: that of "
            "a rectifier is zero.",
        ),
        _SOURCE,
        "These parameters are not trained; those before them in the network may not be either.",
        "gradient_histograms",
    )


def _mostly(
    seen: Measurements, norms: dict[str, pd.DataFrame], layers: list[str], counted: str, most: float
) -> Iterator[Finding]:
    sizes = _sizes(seen, norms)
    counts = [late(seen.in_layers(counted, term)).median() for term in norms]
    zeros = [late(seen.in_layers("gradient_zeros", term)).median() for term in norms]
    if counts[0].empty:
        return
    least = pd.concat(counts, axis=1).min(axis=1)
    if counted == "gradient_near_zeros":
        least = least - pd.concat(zeros, axis=1).min(axis=1)
    shares = (least / sizes).reindex(layers).dropna()
    found = shares[shares >= most]
    if found.empty:
        return
    exactly = counted == "gradient_zeros"
    what = "exactly zero" if exactly else "below a millionth of the network's largest"
    yield Finding(
        "GP505" if exactly else "GP502",
        "warn",
        f"In {listed_layers(found.index)}, {'up to ' * (len(found) > 1)}"
        f"{number(100 * float(found.max()))} % of the gradient's entries are {what}, for every "
        "term.",
        {
            "layers": {str(layer): float(share) for layer, share in found.items()},
            "batch": seen.batch(counted),
            "statistic": f"{counted} over the number of entries, median over the second half",
        },
        (
            "Look at the layer's activations: the units may be off for every point of a batch. "
            "(Rows of an embedding that a batch does not use look the same, and are no defect.)",
            "Start from smaller weights, or a leaky activation.",
        )
        if exactly
        else (
            "Look at the layer's activations: tanh or sigmoid units at their ends have hardly a "
            "slope. Normalise the inputs, or start from smaller weights.",
            "Take an activation with a learnable slope.",
        ),
        _SOURCE,
        "The units are dead, or the batch does not use them."
        if exactly
        else "The units are saturated.",
        "gradient_histograms",
    )


def _vanishing(seen: Measurements, recent: pd.DataFrame, profile: pd.Series) -> Iterator[Finding]:
    weak = profile[profile < VANISHING]
    if weak.empty:
        return
    yield Finding(
        "GP503",
        "warn",
        f"The gradient vanishes in {listed_layers(weak.index)}: its entries are "
        f"{number(float(weak.min()))} of those in {layer(str(profile.idxmax()))} "
        f"({span(recent.index)}).",
        {
            "layers": {str(layer): float(share) for layer, share in profile.items()},
            "steps": steps_of(recent),
            "batch": seen.batch("gradient_norm"),
            "statistic": "root mean square of the weighted gradients, over the strongest layer's",
        },
        (
            "Start from Glorot's weights for tanh, He's for rectifiers.",
            "Add skip connections or gates (the modified network, M3).",
            "Use fewer layers.",
        ),
        _SOURCE,
        "These layers hardly move where the optimizer does not normalise (Adam does).",
        "gradient_histograms",
    )


def _unreached(
    seen: Measurements, norms: dict[str, pd.DataFrame], dead: list[str]
) -> Iterator[Finding]:
    for term, found in norms.items():
        layers = [str(each) for each in found
                  if each not in dead and (found[each].dropna() == 0).all()]  # fmt: skip
        if layers:
            yield Finding(
                "GP504",
                "note",
                f"{name(term)} does not reach {listed_layers(layers)}: its gradient there is "
                f"zero at all {plural(len(found), 'measured step')}.",
                {
                    "term": term,
                    "layers": layers,
                    "steps": steps_of(found),
                    "batch": seen.batch("gradient_norm"),
                    "statistic": "gradient_norm",
                },
                ("Check that the network is meant so, as with one head for each task.",),
                "observed by gradpath",
                "",
                "gradient_histograms",
            )


def _where(recent: pd.DataFrame) -> str:
    if len(recent) == 1:
        return f"at step {recent.index[0]:,}"
    return f"{len(recent)} measurements, steps {recent.index[0]:,} to {recent.index[-1]:,}"
