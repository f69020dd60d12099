"""Findings that need a long training or a known field, on measurements made by hand; properties."""

import math
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
import pytest

from gradpath.diagnostics.diagnosis import CHECKS, combined, diagnose
from gradpath.diagnostics.measurements import Measurements
from tests.diagnostics.diagnosed import alarms, check, codes, finding

STEPS = np.arange(0, 1000, 10)


def scalar(values: Mapping[tuple[str, str], object], steps: object = STEPS) -> pd.DataFrame:
    """A frame of numbers by (term, layer), each constant or one a step."""
    steps = np.atleast_1d(np.asarray(steps))
    rows = [
        (step, term, layer, float(value))
        for (term, layer), given in values.items()
        for step, value in zip(steps, np.broadcast_to(np.asarray(given, float), steps.shape),
                               strict=True)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["step", "term", "layer", "value"])


def eigenvalues(by_term: Mapping[str, Mapping[int, tuple[float, float]]]) -> pd.DataFrame:
    rows = [
        (step, term, "all", end, value, value - 1, value + 1, 9, True, "diagnostic")
        for term, by_step in by_term.items()
        for step, ends in by_step.items()
        for end, value in zip(("smallest", "largest"), ends, strict=True)
    ]
    columns = ["step", "term", "layer", "end", "value", "lower", "upper", "products", "converged",
               "batch"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def field(values: np.ndarray, grid: np.ndarray, term: str = "") -> pd.DataFrame:
    return pd.DataFrame({"step": [990], "term": [term], "values": [values], "grid": [grid]})


def on_grid(exact: np.ndarray, error: np.ndarray, grid: np.ndarray) -> Measurements:
    relative = float(np.linalg.norm(error) / np.linalg.norm(exact))
    fields = {"error": field(error[:, None], grid), "prediction":
              field((exact + error)[:, None], grid)}  # fmt: skip
    return Measurements(
        ("residual",),
        scalars={"relative_error": scalar({("", ""): relative})},
        fields=fields,
        coordinates=("t", "x"),
    )


T, X = (axis.reshape(-1) for axis in np.meshgrid(np.linspace(0, 1, 50), np.linspace(0, 1, 64),
                                                 indexing="ij"))  # fmt: skip
GRID = np.stack([T, X], axis=1)


def test_an_error_that_grows_with_time_while_the_residual_falls() -> None:
    exact = np.sin(2 * np.pi * X)
    seen = on_grid(exact, exact * T, GRID)
    warned = check(diagnose(seen), "propagation in time")
    assert (warned.status, warned.codes) == ("warn", ("GP611",))
    residual = {"residual": field(np.exp(-3 * T)[:, None], GRID, "residual")}
    failing = Measurements(seen.terms, scalars=seen.scalars, fields={**seen.fields, **residual},
                           coordinates=seen.coordinates)  # fmt: skip
    found = diagnose(failing)
    assert check(found, "propagation in time").status == "fail"
    by_time = finding(found, "GP611").evidence["error_by_time"]
    # The root mean square of t in a chunk of five points, relative to the solution.
    chunks = np.array_split(np.linspace(0, 1, 50), 10)
    assert by_time == pytest.approx([math.sqrt((chunk**2).mean()) for chunk in chunks], rel=1e-6)


def test_an_error_that_is_the_same_at_all_times_is_no_matter_of_propagation() -> None:
    exact = np.sin(2 * np.pi * X)
    assert check(diagnose(on_grid(exact, exact / 2, GRID)), "propagation in time").status == "ok"
    small = on_grid(exact, exact * T / 50, GRID)
    assert check(diagnose(small), "propagation in time").status == "ok"


def test_a_problem_without_time_is_not_asked_about_it() -> None:
    seen = Measurements(("residual",), coordinates=("x", "y"))
    asked = check(diagnose(seen), "propagation in time")
    assert (asked.status, asked.number) == ("not measured", "the problem has no coordinate t")


def test_fine_features_that_are_not_learned() -> None:
    coarse, fine = np.sin(4 * np.pi * X), np.sin(2 * np.pi * 20 * X)
    found = diagnose(on_grid(coarse + fine, -fine, GRID))
    bands = finding(found, "GP612").evidence["error_by_band"]
    assert bands["high"] == pytest.approx(1, abs=0.01)
    assert bands["low"] < 0.01
    alike = diagnose(on_grid(coarse + fine, (coarse + fine) / 20, GRID))
    assert check(alike, "spectral bias").status == "ok"


def test_points_that_are_no_grid_have_no_bands() -> None:
    points = np.random.default_rng(0).random((50, 2))
    seen = on_grid(np.ones(50) + points[:, 0], np.ones(50), points)
    assert check(diagnose(seen), "spectral bias").status == "not measured"


@pytest.mark.parametrize(("left", "status"), [(1e-12, "ok"), (3.0, "fail")])
def test_the_solution_has_to_satisfy_the_residual(left: float, status: str) -> None:
    scalars = {
        "loss": scalar({("residual", ""): 25.0}),
        "solution_residual": scalar({("residual", ""): left}, 0),
    }
    found = diagnose(Measurements(("residual",), scalars=scalars))
    assert check(found, "residual self-check").status == status
    assert ("GP603" in codes(found)) == (status == "fail")


def stiff(error: float) -> Measurements:
    return Measurements(
        ("residual", "boundary"),
        scalars={"relative_error": scalar({("", ""): error}),
                 "weight": scalar({("residual", ""): 1, ("boundary", ""): 10})},
        eigenvalues={"hessian": eigenvalues({
            "total": {0: (-300, 300), 900: (20, 7e5)},
            "residual": {0: (-300, 300), 900: (20, 6.9e5)},
            "boundary": {0: (-5, 5), 900: (-5, 600)},
        })},
    )  # fmt: skip


@pytest.mark.parametrize(("error", "severity", "status"), [(0.3, "warn", "warn"),
                                                           (0.01, "note", "ok")])  # fmt: skip
def test_stiffness_is_an_alarm_only_where_the_training_has_failed(
    error: float, severity: str, status: str
) -> None:
    found = diagnose(stiff(error))
    assert check(found, "stiffness").status == status
    assert {finding(found, code).severity for code in ("GP301", "GP302")} == {severity}
    assert finding(found, "GP301").evidence["factor"] == pytest.approx(7e5 / 300)
    assert finding(found, "GP302").evidence["weighted"] == {"residual": 6.9e5, "boundary": 6000}


def plain(error: float, ratio: float = 30.0) -> Measurements:
    """Two terms as in a PINN: the loss of the residual falls, that of the boundary does not."""
    noise = np.exp(0.1 * np.random.default_rng(0).standard_normal(len(STEPS)))
    falling = (20 * np.exp(-STEPS / 50) + 0.01) * noise
    return Measurements(
        ("residual", "boundary"),
        ("a", "b"),
        scalars={
            "loss": scalar({("residual", ""): falling, ("boundary", ""): noise,
                            ("total", ""): falling + noise}),
            "weight": scalar({("residual", ""): 1, ("boundary", ""): 1}),
            "gradient_norm": scalar({
                ("residual", layer): ratio * share * noise
                for layer, share in (("a", 0.1), ("b", 1.0), ("all", 1.0))
            } | {("boundary", layer): noise for layer in ("a", "b", "all")}),
            "relative_error": scalar({("", ""): error}),
        },
    )  # fmt: skip


def test_the_layers_of_an_imbalance_are_named() -> None:
    found = finding(diagnose(plain(0.3)), "GP101")
    assert found.severity == "fail"
    assert found.evidence["layers"] == pytest.approx({"a": 3, "b": 30})
    assert "residual in b (" in found.verdict
    assert "likely cause" in found.reading


def test_an_imbalance_that_the_weights_make_is_told_from_one_of_the_gradients() -> None:
    seen = plain(0.3, ratio=2.0)
    weights = scalar({("residual", ""): 100, ("boundary", ""): 1})
    found = diagnose(Measurements(seen.terms, scalars={**seen.scalars, "weight": weights}))
    made = finding(found, "GP101")
    assert made.evidence["factor"] == pytest.approx(200)
    assert made.evidence["unweighted_factor"] == pytest.approx(2)
    assert "The weights make it so" in made.reading
    assert "how the weights are computed" in made.advice[0]
    assert "The weights make it so" not in finding(diagnose(plain(0.3)), "GP101").reading


def test_a_failure_without_imbalance_is_said_to_be_none() -> None:
    found = diagnose(plain(0.9, ratio=2.0))
    assert check(found, "magnitude imbalance").codes == ("GP102",)
    assert "This is not imbalance" in found.verdict
    assert "GP102" not in codes(diagnose(plain(0.01, ratio=2.0)))


def test_a_low_loss_with_a_large_error_is_a_wrong_solution() -> None:
    seen = plain(0.5)
    assert finding(diagnose(seen), "GP604").severity == "warn"
    scalars = {**seen.scalars, "loss": scalar({("total", ""): 1e3 * np.exp(-STEPS / 50.0)})}
    low = diagnose(Measurements(seen.terms, scalars=scalars))
    assert finding(low, "GP601").evidence["relative_error"] == 0.5


def test_a_loss_that_stalls_with_a_gradient_left_is_told_from_one_that_has_arrived() -> None:
    for left, stalls in ((0.5, True), (1e-3, False)):
        scalars = {
            "loss": scalar(
                {(term, ""): np.where(STEPS < 100, 2.0, 1.0) for term in ("a", "total")}
            ),
            "gradient_norm": scalar({("a", "all"): np.where(STEPS < 100, 1.0, left)}),
        }
        found = diagnose(Measurements(("a",), scalars=scalars))
        assert ("GP331" in codes(found)) == stalls
    falling = {"loss": scalar({("total", ""): np.exp(-STEPS / 100.0)})}
    assert finding(diagnose(Measurements(("a",), scalars=falling)), "GP332").severity == "note"


def test_eigenvalues_that_did_not_converge_and_terms_that_do_not_add_up() -> None:
    found = eigenvalues({"total": dict.fromkeys(range(10), (-1, 1))})
    found["converged"] = False
    seen = Measurements(("a",), scalars={"self_check": scalar({("", ""): 0.3})},
                        eigenvalues={"hessian": found})  # fmt: skip
    told = diagnose(seen)
    assert finding(told, "GP701").evidence["share"] == 1
    assert finding(told, "GP704").severity == "fail"


def test_noise_of_several_batches_is_an_alarm_only_where_the_training_has_failed() -> None:
    for error, is_alarm in ((0.5, True), (0.01, False)):
        scalars = {"gradient_noise": scalar({("total", "all"): 6.0}),
                   "relative_error": scalar({("", ""): error})}  # fmt: skip
        assert ("GP622" in codes(diagnose(Measurements(("a",), scalars=scalars)))) == is_alarm


def test_without_any_measurement_nothing_is_claimed() -> None:
    found = diagnose(Measurements(()))
    assert {each.status for each in found.checks} <= {"not measured", "ok"}
    assert found.findings == ()
    assert len(found.checks) == len(CHECKS) + 1
    assert all(each.number and each.threshold for each in found.checks)


def permuted(seen: Measurements) -> Measurements:
    return Measurements(seen.terms[::-1], seen.layers[::-1], {
        name: frame.iloc[::-1].sort_values("step", kind="stable")
        for name, frame in seen.scalars.items()
    }, seen.eigenvalues, seen.fields)  # fmt: skip


def scaled(seen: Measurements, by: float) -> Measurements:
    changed = dict(seen.scalars)
    for name in ("loss", "gradient_norm"):
        if name in changed:
            changed[name] = changed[name].assign(value=by * changed[name]["value"])
    return Measurements(seen.terms, seen.layers, changed, seen.eigenvalues, seen.fields)


@pytest.mark.parametrize("ratio", [2.0, 30.0, 1e4])
@pytest.mark.parametrize("error", [0.9, 0.01])
def test_neither_the_order_of_terms_nor_the_scale_of_the_loss_matters(
    ratio: float, error: float
) -> None:
    seen = plain(error, ratio)
    statuses = [each.status for each in diagnose(seen).checks]
    for changed in (permuted(seen), scaled(seen, 1e-6), scaled(seen, 1e9)):
        found = diagnose(changed)
        assert [each.status for each in found.checks] == statuses
        assert codes(found) == codes(diagnose(seen))


@pytest.mark.parametrize("left_out", sorted(plain(0.5).scalars))
def test_any_measurement_may_be_missing(left_out: str) -> None:
    seen = plain(0.5)
    rest = {name: frame for name, frame in seen.scalars.items() if name != left_out}
    assert len(diagnose(Measurements(seen.terms, seen.layers, rest)).checks) == len(CHECKS) + 1


def test_names_of_terms_may_be_anything() -> None:
    names = ("<script>\n\u202e", "x" * 10_000)
    seen = plain(0.5)
    scalars = {
        name: frame.assign(term=frame["term"].replace(dict(zip(seen.terms, names, strict=True))))
        for name, frame in seen.scalars.items()
    }
    found = diagnose(Measurements(names, seen.layers, scalars))
    one = finding(found, "GP101")
    assert (one.evidence["reference"], one.evidence["term"]) == names
    texts = [found.verdict, one.verdict, *(each.number for each in found.checks)]
    assert all(text.isprintable() and len(text) < 1500 for text in texts)


def test_fields_are_read_by_those_checks_alone_that_need_them() -> None:
    asked: list[str] = []

    class Reading(Mapping[str, pd.DataFrame]):
        def __getitem__(self, name: str) -> pd.DataFrame:
            asked.append(name)
            raise KeyError(name)

        def __iter__(self) -> Iterator[str]:
            return iter(())

        def __len__(self) -> int:
            return 0

    seen = plain(0.01)
    lazily = Measurements(seen.terms, seen.layers, seen.scalars, fields=Reading(),
                          coordinates=("t", "x"))  # fmt: skip
    for each in CHECKS:
        asked.clear()
        each(lazily)
        assert bool(asked) == (each.__name__ in {"propagation", "spectral_bias"})


def test_parts_are_diagnosed_apart_and_told_together() -> None:
    found = combined({"critic": diagnose(plain(0.01, 2.0)), "generator": diagnose(plain(0.3))})
    imbalance = check(found, "magnitude imbalance")
    assert imbalance.status == "fail"
    assert imbalance.number.startswith("generator: ")
    assert finding(found, "GP101").evidence["part"] == "generator"
    assert found.findings[0].severity == "fail"


def test_a_run_as_it_should_be_has_nothing_but_notes() -> None:
    assert alarms(diagnose(plain(0.01, 2.0))) == []
