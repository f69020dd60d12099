"""Fields: what is drawn is what was recorded, on grids, on lines and on scattered points."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection, QuadMesh

from gradpath.diagnostics.errors import ArgumentError
from gradpath.experiments import problem, train
from gradpath.probes import Run
from gradpath.reports.figures import (
    NotMeasuredError,
    plain_pinn_diagnosis,
    profiles,
    solution_fields,
    streamlines,
)
from gradpath.reports.theme import svg
from tests.reports.sweep_runs import write_fields, x_of, y_of

X, Y = np.meshgrid(np.linspace(-1, 1, 9), np.linspace(0, 1, 6), indexing="ij")
GRID = np.stack([X.ravel(), Y.ravel()], axis=1)
SOLUTION = np.sin(3 * GRID[:, 0]) * GRID[:, 1]
ERROR = 0.1 * GRID[:, 0]


def meshes(plate: Any) -> list[np.ndarray]:
    """The values of each colour map of a figure, one row a value of y."""
    return [
        np.ma.filled(np.ma.asarray(mesh.get_array()), np.nan)
        for axes in plate.axes
        for mesh in axes.collections
        if isinstance(mesh, QuadMesh) and axes.get_label() != "<colorbar>"
    ]


def fields_of(folder: Path, **metadata: Any) -> Run:
    fields = {"prediction": (SOLUTION + ERROR)[:, None], "error": ERROR[:, None]}
    return write_fields(folder, GRID, fields, **metadata)


def test_the_triple_is_solution_prediction_and_magnitude_of_the_error(tmp_path: Path) -> None:
    plate = solution_fields(fields_of(tmp_path / "run", problem="helmholtz"))
    expected = [SOLUTION, SOLUTION + ERROR, np.abs(ERROR)]
    for mesh, values in zip(meshes(plate), expected, strict=True):
        np.testing.assert_allclose(mesh, values.reshape(9, 6).T, atol=1e-6)
    names = [axes.get_title(loc="left") for axes in plate.axes[:3]]
    assert names == ["solution", "prediction", "|error|"]
    assert [axes.get_xlabel() for axes in plate.axes[:3]] == ["x", "x", "x"]
    relative = np.linalg.norm(ERROR) / np.linalg.norm(SOLUTION)
    assert f"relative L2 error is {relative:.3g}" in plate.caption
    assert "largest error 0.1 at" in plate.caption


def test_the_order_of_points_does_not_matter(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(len(GRID))
    order = order[3:]  # and a few may be missing
    run = write_fields(tmp_path / "run", GRID[order], {"temperature": SOLUTION[order]})
    (mesh,) = meshes(solution_fields(run))
    expected = np.full(len(GRID), np.nan)
    expected[order] = SOLUTION[order]
    np.testing.assert_allclose(mesh, expected.reshape(9, 6).T, atol=1e-6)


def test_scattered_points_are_dots(tmp_path: Path) -> None:
    points = np.random.default_rng(0).uniform(size=(50, 2))
    values = points.sum(axis=1)
    values[7] = np.nan
    plate = solution_fields(write_fields(tmp_path / "run", points, {"$u_x$ \u202e": values}))
    (dots,) = [c for c in plate.axes[0].collections if isinstance(c, PathCollection)]
    np.testing.assert_allclose(np.asarray(dots.get_offsets()), np.delete(points, 7, 0))
    np.testing.assert_allclose(np.asarray(dots.get_array()), np.delete(values, 7))
    assert "1 of 50 values" in plate.caption
    assert svg(plate)
    with pytest.raises(NotMeasuredError, match="scattered points"):
        profiles(write_fields(tmp_path / "other", points, {"u": values}))


def test_a_line_is_drawn_in_the_order_of_its_coordinate(tmp_path: Path) -> None:
    x = np.array([0.5, 0.0, 1.0, 0.25])
    fields = {"prediction": x**2, "error": 0 * x + 0.5}
    plate = solution_fields(write_fields(tmp_path / "run", x, fields, problem="poisson"))
    solution, prediction = plate.axes[0].lines
    np.testing.assert_allclose(x_of(solution), np.sort(x))
    np.testing.assert_allclose(y_of(solution), np.sort(x) ** 2 - 0.5)
    np.testing.assert_allclose(y_of(prediction), np.sort(x) ** 2)
    assert len(profiles(Run(tmp_path / "run")).axes[0].lines) == 2


def test_slices_are_those_of_the_grid(tmp_path: Path) -> None:
    t, x = np.meshgrid(np.linspace(0, 1, 7), np.linspace(-1, 1, 11), indexing="ij")
    values = np.sin(x - t)
    grid = np.stack([t.ravel(), x.ravel()], axis=1)
    run = write_fields(
        tmp_path / "run", grid, {"prediction": values.ravel(), "error": 0 * grid[:, 0]},
        problem="convection",
    )  # fmt: skip
    plate = profiles(run)
    titles = [axes.get_title(loc="left") for axes in plate.axes]
    assert titles == ["t = 0", "t = 0.333", "t = 0.667", "t = 1"]
    for axes, place in zip(plate.axes, (0, 2, 4, 6), strict=True):
        np.testing.assert_allclose(y_of(axes.lines[0]), values[place], atol=1e-6)


def test_what_is_no_field_on_a_grid_is_said(tmp_path: Path) -> None:
    run = write_fields(tmp_path / "run", GRID, {"u": SOLUTION})
    with pytest.raises(ArgumentError, match="no field 'w'; it has u"):
        solution_fields(run, names=["w"])
    with pytest.raises(NotMeasuredError, match="no velocity on a grid"):
        streamlines(run)
    empty = write_fields(tmp_path / "empty", np.zeros((4, 3)), {"u": np.zeros(4)})
    for figure in (solution_fields, profiles):
        with pytest.raises(NotMeasuredError, match="no fields on a grid"):
            figure(empty)


@pytest.mark.parametrize("two_fields", [False, True])
def test_streamlines_follow_the_velocity(tmp_path: Path, two_fields: bool) -> None:
    """Of a rotation they are circles."""
    x, y = np.meshgrid(np.linspace(-1, 1, 21), np.linspace(-1, 1, 21), indexing="ij")
    grid = np.stack([x.ravel(), y.ravel()], axis=1)
    velocity = np.stack([-grid[:, 1], grid[:, 0]], axis=1)
    fields: dict[str, Any] = {"velocity": velocity, "velocity_error": 0 * velocity}
    if two_fields:
        fields = {"u": velocity[:, 0], "v": velocity[:, 1]}
    plate = streamlines(write_fields(tmp_path / "run", grid, fields))
    panels = [axes for axes in plate.axes if axes.get_label() != "<colorbar>"]
    assert len(panels) == 1 if two_fields else 2
    lines = next(c for c in panels[0].collections if isinstance(c, LineCollection))
    for segment in lines.get_segments():
        radii = np.hypot(*np.asarray(segment).T)
        assert radii.max() - radii.min() < 0.02
    centre = profiles(Run(tmp_path / "run")).axes[0]
    np.testing.assert_allclose(y_of(centre.lines[0]), -np.linspace(-1, 1, 21), atol=1e-6)


@pytest.mark.slow  # the reference solution takes its time
@pytest.mark.parametrize("name", ["cavity", "cavity_streamfunction"])
def test_the_cavitys_velocity_is_recorded_and_that_of_its_reference(
    name: str, tmp_path: Path
) -> None:
    cavity = problem(name)
    train(
        cavity, "M1", tmp_path / "run", steps=1, hidden=(4,), compile=False, points=4,
        instruments=[],
    )  # fmt: skip
    run = Run(tmp_path / "run")
    fields = run.fields(step=1).set_index("name")["values"]
    solution = fields["velocity"] - fields["velocity_error"]
    points = cavity.evaluation_points()
    on_lid = (points[:, 1] == 1).numpy()
    np.testing.assert_allclose(solution[on_lid], [[1, 0]] * int(on_lid.sum()), atol=1e-4)
    speed = fields["prediction"].ravel()
    np.testing.assert_allclose(np.hypot(*fields["velocity"].T), speed, rtol=1e-4, atol=1e-6)
    assert "relative L2 error of the velocity" in streamlines(run).caption


def test_the_panel_of_a_plain_pinn_has_all_three(tmp_path: Path) -> None:
    burgers = problem("burgers")
    train(
        burgers, "M1", tmp_path / "run", steps=2, hidden=(4,), compile=False, points=4,
        instruments="standard",
    )  # fmt: skip
    run = Run(tmp_path / "run")
    plate = plain_pinn_diagnosis(run)
    assert [axes.get_title(loc="left") for axes in plate.axes] == [
        "gradients of the terms", "residual over time", "tangent kernel"
    ]  # fmt: skip
    (row,) = [r for _, r in run.fields("residual", step=2).iterrows()]
    means = (row["values"].reshape(*burgers.counts, -1).astype(float) ** 2).sum(-1).mean(1)
    (line,) = plate.axes[1].lines
    np.testing.assert_allclose(y_of(line), means, rtol=1e-6)
    values = run.fields("kernel_eigenvalues", step=2).set_index("term")["values"]["residual"]
    drawn = y_of(plate.axes[2].lines[0])
    np.testing.assert_allclose(drawn, np.sort(values)[::-1][: len(drawn)])
    assert plate.axes[2].get_yscale() == "log"


def test_what_the_panel_lacks_is_named(tmp_path: Path) -> None:
    run = write_fields(tmp_path / "run", GRID, {"residual": ("pde", SOLUTION)})
    with pytest.raises(NotMeasuredError, match=r"coordinates=.*`time=0`"):
        plain_pinn_diagnosis(run)
    plate = plain_pinn_diagnosis(run, time=1)
    assert len(plate.axes) == 1
    np.testing.assert_allclose(
        y_of(plate.axes[0].lines[0]), (SOLUTION.reshape(9, 6) ** 2).mean(0), atol=1e-7
    )
    assert "Not measured: histograms of gradients" in plate.caption
    assert "TangentKernel" in plate.caption
    with pytest.raises(ArgumentError, match="2 coordinates"):
        plain_pinn_diagnosis(run, time=2)
    other = write_fields(tmp_path / "other", GRID, {"u": SOLUTION}, problem="burgers")
    with pytest.raises(NotMeasuredError, match="neither the residual"):
        plain_pinn_diagnosis(other)
