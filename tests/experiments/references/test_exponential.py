"""Exponential time stepping against equations with known solutions."""

import numpy as np

from gradpath.experiments.references.exponential import etdrk4


def logistic_error(steps: int) -> float:
    """u' = u - u^2 from 0.1."""
    found = etdrk4(np.ones(1), lambda u: -(u**2), np.array([0.1]), time=4.0, steps=steps, kept=4)[
        :, 0
    ]
    growth = np.exp(np.arange(5.0))
    return float(np.abs(found - 0.1 * growth / (0.9 + 0.1 * growth)).max())


def test_the_linear_part_is_exact_however_stiff() -> None:
    eigenvalues = np.array([-1e6, -3.0, 0.0, 1e-9, 2.0])
    found = etdrk4(eigenvalues, np.zeros_like, np.ones(5), time=1.0, steps=2, kept=2)
    np.testing.assert_allclose(found[-1], np.exp(eigenvalues), rtol=1e-12, atol=1e-300)
    np.testing.assert_array_equal(found[0], np.ones(5))


def test_a_constant_force_is_exact_too() -> None:
    eigenvalues = np.array([-50.0, -1e-12, 0.5])
    found = etdrk4(eigenvalues, np.ones_like, np.zeros(3), time=2.0, steps=4, kept=1)[-1]
    expected = np.expm1(2 * eigenvalues) / eigenvalues
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_it_is_of_fourth_order() -> None:
    coarse, fine = logistic_error(20), logistic_error(40)
    assert 14 < coarse / fine < 18
    assert logistic_error(400) < 1e-9


def test_modes_may_be_complex() -> None:
    found = etdrk4(
        np.array([-1.0]), lambda u: 2j * u, np.array([1 + 0j]), time=1.0, steps=50, kept=1
    )
    np.testing.assert_allclose(found[-1], np.exp(-1 + 2j), atol=1e-6)
