"""What a measurement is called in a tracker, which knows nothing but one name for each curve.

A tag is the name of a measurement, then what tells it apart: `loss/residual`,
`gradient/residual/net.0`. Trackers make a group of what comes before the first slash.
"""

from __future__ import annotations

from ..records import TRAINING_BATCH


def tag(name: str, part: str, term: str, layer: str, batch: str) -> str:
    """Returns the tag of a measurement.

    Example:
        >>> tag("gradient", "", "u/v", "net.0", "training")
        'gradient/u|v/net.0'
    """
    names = (name, part, term, layer, "" if batch == TRAINING_BATCH else batch)
    return "/".join(each.replace("/", "|") for each in names if each)
