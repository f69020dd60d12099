"""Which derivatives depend on which, counted against the numbers of combinatorics."""

from math import comb

import pytest
from hypothesis import given, strategies as st

from gradpath.experiments.derivatives import Truncation

BELL = [1, 1, 2, 5, 15, 52]  # partitions of a set


def test_lower_derivatives_are_added() -> None:
    assert Truncation(["xxy"]).names == ["x", "y", "xx", "xy", "xxy"]


def test_a_sum_needs_no_derivative_of_its_own_order() -> None:
    assert Truncation(["xx+yy"]).names == ["x", "y", "xx+yy"]
    assert Truncation(["xxy+yyy"]).names == ["x", "y", "xx", "xy", "yy", "xxy+yyy"]


def test_nothing_wanted_is_nothing_carried() -> None:
    assert Truncation([]).names == []


@given(st.text("xyz", min_size=1, max_size=5))
def test_as_many_products_as_there_are_partitions_and_subsets(letters: str) -> None:
    name = "".join(sorted(letters))
    truncation = Truncation([name])
    order = len(name)
    assert sum(count for count, _ in truncation.chain[name]) == BELL[order] - 1
    assert sum(count for count, _ in truncation.product[name]) == 2**order - 2
    by_size = [sum(c for c, (a, _) in truncation.product[name] if len(a) == size)
               for size in range(1, order)]  # fmt: skip
    assert by_size == [comb(order, size) for size in range(1, order)]
    assert all("".join(sorted("".join(f))) == name for _, f in truncation.chain[name])


def test_terms_of_a_sum_carry_their_signs() -> None:
    truncation = Truncation(["tt-xx"])
    assert truncation.chain["tt-xx"] == [(1, ("t", "t")), (-1, ("x", "x"))]
    assert truncation.product["tt-xx"] == [(2, ("t", "t")), (-2, ("x", "x"))]


@pytest.mark.parametrize(("name", "rest"), [("xx-xx", []), ("xx+xx", [(2, ("x", "x"))])])
def test_equal_terms_are_added_up(name: str, rest: list[tuple[int, tuple[str, str]]]) -> None:
    assert Truncation([name]).chain[name] == rest
