"""Time stepping for stiff equations u_t = L u + N(u) whose linear part is diagonal.

ETDRK4 (Cox, Matthews, J. Comput. Phys. 176, 2002): the linear part is integrated exactly, the
other one by a fourth-order Runge-Kutta rule. The coefficients, differences of exponentials that
cancel for small eigenvalues, are means over a circle around each of them (Kassam, Trefethen, SIAM
J. Sci. Comput. 26, 2005).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Shaped

Modes = Shaped[np.ndarray, " modes"]  # real or complex

_POINTS_ON_CIRCLE = 64


def etdrk4(
    eigenvalues: Modes,
    nonlinear: Callable[[Modes], Modes],
    start: Modes,
    *,
    time: float,
    steps: int,
    kept: int,
) -> Shaped[np.ndarray, "times modes"]:
    """Returns the solution at `kept` + 1 equidistant times, of which the first is 0.

    Args:
        eigenvalues: of the linear part, real.
        nonlinear: the other part, from modes to modes.
        start: the modes at time 0.
        time: until when.
        steps: how many, a multiple of `kept`.
        kept: how many results beside the start.
    """
    h = time / steps
    angles = np.pi * (np.arange(_POINTS_ON_CIRCLE) + 0.5) / _POINTS_ON_CIRCLE
    z = h * eigenvalues[:, None] + np.exp(1j * angles)  # the lower half of the circle is the mirror

    def mean(values: np.ndarray) -> np.ndarray:
        return np.real(h * values.mean(axis=1))

    half = mean(np.expm1(z / 2) / z)
    first = mean((-4 - z + np.exp(z) * (4 - 3 * z + z**2)) / z**3)
    middle = mean((2 + z + np.exp(z) * (z - 2)) / z**3)
    last = mean((-4 - 3 * z - z**2 + np.exp(z) * (4 - z)) / z**3)
    decay, decay_half = np.exp(h * eigenvalues), np.exp(h * eigenvalues / 2)

    modes = start
    results = [start]
    for step in range(1, steps + 1):
        n = nonlinear(modes)
        a = decay_half * modes + half * n
        n_a = nonlinear(a)
        b = decay_half * modes + half * n_a
        n_b = nonlinear(b)
        c = decay_half * a + half * (2 * n_b - n)
        modes = decay * modes + first * n + 2 * middle * (n_a + n_b) + last * nonlinear(c)
        if step % (steps // kept) == 0:
            results.append(modes)
    return np.array(results)
