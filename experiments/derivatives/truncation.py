"""Which derivatives are carried along, and how those of a function or a product come about.

A derivative is named by its coordinates in alphabetical order, such as "xxy"; a sum of derivatives
by its terms, such as "xx+yy" or "tt-xx". A sum can be carried as one stream because the derivative
f(z)_xx = f'(z) z_xx + f''(z) z_x z_x is linear in its highest derivative: of z_xx and z_yy nothing
but z_xx + z_yy enters f(z)_xx + f(z)_yy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import combinations

Products = list[tuple[int, tuple[str, ...]]]
"""Terms of a derivative: a coefficient and the names of the derivatives that it multiplies."""


class Truncation:
    """The derivatives that a jet has.

    Args:
        derivatives: their names; those of lower order that they depend on are added.

    Attributes:
        names: of all derivatives, the lower orders first.
        order: the highest.
        chain: the products in the derivative of f(z), beside f'(z) times the same derivative of z.
            One with n factors goes with the n-th derivative of f (Faa di Bruno's formula).
        product: those in the derivative of a b, beside the two with a and b themselves. The first
            factor is a derivative of a, the second one of b (Leibniz's formula).

    Example:
        >>> laplacian = Truncation(["xx+yy"])
        >>> laplacian.names, laplacian.chain["xx+yy"]
        (['x', 'y', 'xx+yy'], [(1, ('x', 'x')), (1, ('y', 'y'))])
    """

    def __init__(self, derivatives: Iterable[str]) -> None:
        wanted = list(derivatives)
        parts = [part for name in wanted for _, term in terms_of(name) for part, _ in splits(term)]
        self.names = sorted(dict.fromkeys([*parts, *wanted]), key=_order)
        self.order = max([0, *(_order(name) for name in self.names)])
        self.chain = {name: _collect(name, _partitions) for name in self.names}
        self.product = {name: _collect(name, splits) for name in self.names}


def terms_of(name: str) -> list[tuple[int, str]]:
    """Returns the terms of a sum of derivatives, each with its sign."""
    parts = name.replace("-", "+-").split("+")
    return [(-1, part[1:]) if part[0] == "-" else (1, part) for part in parts]


def splits(term: str) -> list[tuple[str, ...]]:
    """Returns every way to deal the coordinates to two factors of which none goes empty."""
    every = range(len(term))
    return [
        ("".join(term[i] for i in chosen), "".join(term[i] for i in every if i not in chosen))
        for size in every[1:]
        for chosen in combinations(every, size)
    ]


def _partitions(term: str) -> list[tuple[str, ...]]:
    """Returns every partition of the coordinates into two or more blocks."""
    found: list[tuple[str, ...]] = [()]
    for letter in term:
        grown: list[tuple[str, ...]] = []
        for blocks in found:
            grown.append((*blocks, letter))
            for i, block in enumerate(blocks):
                grown.append((*blocks[:i], block + letter, *blocks[i + 1 :]))
        found = grown
    return [tuple(sorted(blocks)) for blocks in found if len(blocks) > 1]


def _order(name: str) -> int:
    return max(len(term) for _, term in terms_of(name))


def _collect(name: str, ways: Callable[[str], list[tuple[str, ...]]]) -> Products:
    """Returns the products that make up a derivative, equal ones added up."""
    total: dict[tuple[str, ...], int] = {}
    for sign, term in terms_of(name):
        for factors in ways(term):
            total[factors] = total.get(factors, 0) + sign
    return [(coefficient, factors) for factors, coefficient in total.items() if coefficient]
