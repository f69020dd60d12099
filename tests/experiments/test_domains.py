"""Random points: inside, on the edges, reproducible, and as many as asked for."""

import math

import pytest
import torch
from hypothesis import given, strategies as st

from gradpath.diagnostics.errors import ArgumentError
from gradpath.experiments import PROBLEMS, Box, Region, Sampler, problem


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", PROBLEMS)
def test_points_of_every_problem_lie_in_their_boxes(name: str, dtype: torch.dtype) -> None:
    regions = problem(name).regions
    batch = problem(name).sampler(2000, dtype=dtype).draw(generator())
    assert list(batch) == list(regions)
    for region, points in batch.items():
        assert points.dtype == dtype
        for box, inside in zip(regions[region].boxes, points, strict=True):
            lower, upper = (
                torch.tensor(box.lower, dtype=dtype),
                torch.tensor(box.upper, dtype=dtype),
            )
            # On an edge the ends are equal, so this says that the points lie on it exactly.
            assert bool((inside >= lower).all() and (inside <= upper).all()), region


@given(
    ends=st.lists(
        st.tuples(st.floats(-1e3, 1e3), st.floats(0, 1e3)).map(lambda p: (p[0], p[0] + p[1])),
        min_size=1,
        max_size=3,
    ),
    seed=st.integers(0, 100),
)
def test_points_of_any_box_lie_in_it(ends: list[tuple[float, float]], seed: int) -> None:
    box = Box(**dict(zip("xyz", ends, strict=False)))
    for dtype in (torch.float32, torch.float64):
        points = Sampler({"box": Region((box,))}, 100, dtype=dtype).draw(generator(seed))["box"]
        lower, upper = torch.tensor(box.lower, dtype=dtype), torch.tensor(box.upper, dtype=dtype)
        assert bool((points >= lower).all() and (points <= upper).all())


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_seed_fixes_the_points_and_every_draw_is_fresh(name: str) -> None:
    sampler, first, second = problem(name).sampler(), generator(3), generator(3)
    before = torch.get_rng_state()
    one, two, three = sampler.draw(first), sampler.draw(first), sampler.draw(second)
    for region in one:
        assert torch.equal(one[region], three[region])
    assert not torch.equal(one["interior"], two["interior"])
    assert torch.equal(torch.get_rng_state(), before)


def test_as_in_the_paper_128_points_inside_and_on_each_edge() -> None:
    batch = problem("helmholtz").sampler().draw(generator())
    assert {name: points.shape for name, points in batch.items()} == {
        "interior": (1, 128, 2),
        "boundary": (4, 128, 2),
    }


def test_regions_can_have_different_numbers_of_points() -> None:
    batch = problem("wave").sampler({"interior": 50, "initial": 7, "boundary": 9}).draw(generator())
    assert [points.shape[:2] for points in batch.values()] == [(1, 50), (1, 7), (2, 9)]


def test_a_point_is_not_repeated() -> None:
    assert problem("poisson").sampler(128).draw(generator())["boundary"].tolist() == [[[0]], [[1]]]


def test_points_of_paired_edges_face_each_other() -> None:
    ends = problem("convection").sampler(100).draw(generator())["boundary"]
    assert torch.equal(ends[0, :, 0], ends[1, :, 0])
    assert torch.equal(ends[0, :, 1], torch.zeros(100))
    assert torch.equal(ends[1, :, 1], torch.full((100,), 2 * math.pi))


@pytest.mark.parametrize("name", PROBLEMS)
def test_mean_and_deviation_are_those_of_many_points(name: str) -> None:
    """The paper standardises by 100,000 random points; these are the numbers in the limit."""
    box = problem(name).domain
    points = Sampler({"box": Region((box,))}, 100_000).draw(generator())["box"][0].double()
    deviation = torch.tensor(box.deviation, dtype=torch.float64)
    assert ((points.mean(0) - torch.tensor(box.mean)).abs() < 0.02 * deviation).all()
    assert ((points.std(0) - deviation).abs() < 0.01 * deviation).all()


@pytest.mark.parametrize("points", [0, {"interior": 5, "nowhere": 3}, {"interior": -1}])
def test_impossible_numbers_are_refused(points: int | dict[str, int]) -> None:
    with pytest.raises(ArgumentError, match="cannot be drawn"):
        problem("helmholtz").sampler(points)


def test_a_region_without_a_number_is_refused() -> None:
    with pytest.raises(ArgumentError, match="'boundary'"):
        problem("helmholtz").sampler({"interior": 5})


def test_grids_hold_the_edges_and_run_along_the_last_coordinate_first() -> None:
    grid = Box(t=(0.0, 1.0), x=(-1.0, 1.0)).grid((2, 3))
    assert grid.tolist() == [[0, -1], [0, 0], [0, 1], [1, -1], [1, 0], [1, 1]]


def test_an_edge_of_a_coordinate_that_there_is_not_is_refused() -> None:
    with pytest.raises(ArgumentError, match="no coordinate 'z'"):
        Box(x=(0.0, 1.0)).at(z=1.0)
