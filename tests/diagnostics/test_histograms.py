"""Histograms against explicit edges in exact arithmetic, and against numpy on the values."""

import pickle
import subprocess
import sys
import zlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from gradpath.diagnostics import (
    ArgumentError,
    LayoutError,
    ParameterLayout,
    TermGradients,
    histogram_counting as counting,
)
from gradpath.diagnostics.histogram_bins import INFINITY_BIN, NAN_BIN, ranges
from gradpath.diagnostics.histograms import (
    GradientHistogram,
    histograms_by_layer,
    signed_log_edges,
)

INTEGERS = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}
DTYPES = list(INTEGERS)
INF, NAN = float("inf"), float("nan")

# The edges of all bins of magnitudes as integers, in units of 2^-1078: exact, in any exponent.
EDGES = [(16 + k) << octave for octave in range(2098) for k in range(16)]


def explicit_bin(value: float) -> int:
    if value != value:
        return NAN_BIN
    sign = 1 if value > 0 else -1
    if abs(value) == INF:
        return sign * INFINITY_BIN
    number = bisect_right(EDGES, int(Fraction(abs(value)) * 2**1078))
    return sign * (16 + number) if number else 0


def explicit(tensor: torch.Tensor) -> dict[int, int]:
    return dict(Counter(map(explicit_bin, tensor.detach().double().flatten().tolist())))


def counted(histogram: GradientHistogram) -> dict[int, int]:
    assert (np.diff(histogram.bins) > 0).all()
    assert (histogram.counts > 0).all()
    return dict(zip(histogram.bins.tolist(), histogram.counts.tolist(), strict=True))


def specials(dtype: torch.dtype) -> torch.Tensor:
    """Zeros, the smallest and largest of every kind, and what lies right beside an edge."""
    info = torch.finfo(dtype)
    step = torch.tensor(1, dtype=INTEGERS[dtype]).view(dtype).item()  # the smallest of all
    positive = [step, 3 * step, info.tiny - step, info.tiny, 1.0, 1.0625, 1.0625 - info.eps]
    positive += [1 - info.eps / 2, info.max, INF]
    return torch.tensor([0.0, -0.0, NAN, *positive, *[-x for x in positive]], dtype=dtype)


@st.composite
def tensors(draw: st.DrawFn, dtypes: list[torch.dtype] = DTYPES) -> torch.Tensor:
    """Draws any bit patterns, with special values among them."""
    dtype = draw(st.sampled_from(dtypes))
    integer = torch.iinfo(INTEGERS[dtype])
    special = specials(dtype).view(INTEGERS[dtype]).tolist()
    pattern = st.sampled_from(special) | st.integers(integer.min, integer.max)
    return torch.tensor(draw(st.lists(pattern, max_size=40)), dtype=INTEGERS[dtype]).view(dtype)


def normal(entries: int, scale: float = 1e-3) -> torch.Tensor:
    return torch.randn(entries) * scale


# Counting


@given(tensors())
def test_counts_are_those_between_explicit_edges(tensor: torch.Tensor) -> None:
    assert counted(GradientHistogram.of(tensor)) == explicit(tensor)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_kind_of_number_is_counted_apart(dtype: torch.dtype) -> None:
    histogram = GradientHistogram.of(specials(dtype))
    assert histogram.count == len(specials(dtype))
    assert (histogram.zeros, histogram.nans, histogram.infs) == (2, 1, 2)
    assert (histogram.positive_infs, histogram.negative_infs) == (1, 1)


@given(tensors([torch.float16, torch.bfloat16, torch.float32]))
def test_a_number_has_one_bin_whatever_its_dtype(tensor: torch.Tensor) -> None:
    assert GradientHistogram.of(tensor) == GradientHistogram.of(tensor.double())


def test_no_bin_is_wider_than_a_sixteenth_of_its_values() -> None:
    bins = np.arange(17, INFINITY_BIN, dtype=np.int32)
    smallest, largest = ranges(bins)
    # Between the smallest subnormal numbers some bins have no number in them.
    occupied = smallest <= largest
    assert ((largest - smallest)[occupied] <= smallest[occupied] / 16).all()
    assert occupied[bins > 6 * 16].all()
    below, above = ranges(-bins)
    assert (below == -largest).all()
    assert (above == -smallest).all()


@given(tensors())
def test_every_entry_lies_in_the_range_of_its_bin(tensor: torch.Tensor) -> None:
    for value in tensor[~tensor.isnan()]:
        smallest, largest = ranges(GradientHistogram.of(value).bins)
        assert smallest.item() <= value.item() <= largest.item()


WIDE = torch.arange(-24.0, 24.0).reshape(4, 3, 4) ** 3

FORMS = {
    "no dimension": torch.tensor(-2.5),
    "empty": torch.empty(3, 0),
    "transposed": WIDE.permute(2, 0, 1),
    "channels last": WIDE[None].to(memory_format=torch.channels_last),
    "strided": WIDE[:, ::2, 1:3],
    "expanded": WIDE[:1].expand(7, -1, -1),
    "negated view": torch.complex(WIDE, WIDE).conj().imag,
    "negated number": torch.tensor(1 + 2j).conj().imag,
    "parameter": torch.nn.Parameter(WIDE),
    "with a graph": WIDE.clone().requires_grad_() * 2,
    "misaligned": WIDE.flatten()[1:],
}


@pytest.mark.parametrize("name", FORMS)
def test_any_shape_and_memory_layout_is_counted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = explicit(FORMS[name])
    assert counted(GradientHistogram.of(FORMS[name])) == expected
    monkeypatch.setattr(counting, "_CHUNK", 5)  # now it comes in pieces
    assert counted(GradientHistogram.of(FORMS[name])) == expected
    monkeypatch.setattr(counting, "_FEW", 1)  # and in the way of large ones
    assert counted(GradientHistogram.of(FORMS[name])) == expected


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_count_every_entry_once(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensor = torch.cat([normal(10_000).to(dtype), specials(dtype)])
    expected = explicit(tensor)
    monkeypatch.setattr(counting, "_WORTH_A_THREAD", 100)
    monkeypatch.setattr(counting, "_CHUNK", 300)
    monkeypatch.setattr(counting, "_FEW", 200)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert counted(GradientHistogram.of(tensor)) == expected


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("entries", [100_000, 600_000])
def test_large_tensors_are_counted_as_small_ones_are(dtype: torch.dtype, entries: int) -> None:
    tensor = torch.cat([specials(dtype), (torch.randn(entries) * 1e-3).to(dtype)])
    parts = [GradientHistogram.of(part) for part in torch.split(tensor, 10_000)]
    assert sum(parts) == GradientHistogram.of(tensor)


@pytest.mark.parametrize("dtype", DTYPES)
def test_codes_on_another_device_are_those_on_the_cpu(dtype: torch.dtype) -> None:
    tensor = torch.cat([normal(1_000).to(dtype), specials(dtype)])
    form = counting._format_of(tensor)
    on_device = counting._codes_on_device(tensor, form)
    assert on_device.tolist() == counting._codes_of(tensor, form).tolist()


def test_flushing_subnormal_numbers_to_zero_changes_no_count() -> None:
    tensor = specials(torch.float32)
    expected = GradientHistogram.of(tensor)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormal numbers to zero")
    try:
        assert GradientHistogram.of(tensor) == expected
    finally:
        torch.set_flush_denormal(False)


NO_HISTOGRAM: dict[str, Any] = {
    "int64": torch.arange(3),
    "bool": torch.ones(3, dtype=torch.bool),
    "complex64": torch.ones(3, dtype=torch.complex64),
    "float8_e5m2": torch.ones(3).to(torch.float8_e5m2),
    "list": [1.0, 2.0],
    "sparse": torch.eye(3).to_sparse(),
    "meta": torch.empty(3, device="meta"),
}


@pytest.mark.parametrize("name", NO_HISTOGRAM)
def test_what_has_no_histogram_is_said_in_one_sentence(name: str) -> None:
    with pytest.raises(ArgumentError, match=name):
        GradientHistogram.of(NO_HISTOGRAM[name])


# The memory that counting takes beyond the tensor, in MB, in a process of its own: the peak of this
# one may be anywhere. A copy of the tensor in the smallest integers there are would take 30 MB.
MEASURE_MEMORY = """
import resource, sys, torch
from gradpath.diagnostics import GradientHistogram

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit

unit = 1e6 if sys.platform == "darwin" else 1e3
dtype = getattr(torch, sys.argv[1])
tensor = torch.ones(30_000_000, dtype=dtype)
tensor[::7] = 0
for threads in (1, 2):
    torch.set_num_threads(threads)
    GradientHistogram.of(torch.ones(1 << 22, dtype=dtype))
    for view in (tensor, tensor.view(-1, 2).T, tensor.view(-1, 2)[:, 1]):
        before = peak()
        GradientHistogram.of(view)
        print(peak() - before)
"""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_copy_grows_with_the_tensor(dtype: str) -> None:
    pytest.importorskip("resource")
    command = [sys.executable, "-c", MEASURE_MEMORY, dtype]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert all(float(megabytes) < 25 for megabytes in output.split()), output


# Adding, comparing, storing


@given(st.lists(tensors(), min_size=1, max_size=4))
def test_adding_histograms_is_counting_all_entries(parts: list[torch.Tensor]) -> None:
    total = sum(GradientHistogram.of(part) for part in parts)
    assert total == GradientHistogram.of(torch.cat([part.double() for part in parts]))


def test_histograms_are_values() -> None:
    values = normal(100)
    one, same = GradientHistogram.of(values), GradientHistogram.of(values.flip(0))
    assert one == same
    assert len({one, same, one + same}) == 2
    assert one != one + same
    assert one != 0
    assert pickle.loads(pickle.dumps(one)) == one
    for array in (one.bins, one.counts):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    with pytest.raises(TypeError):
        one + 1  # type: ignore[operator]
    with pytest.raises(TypeError):
        1 + one


@given(tensors())
def test_bytes_give_the_histogram_back(tensor: torch.Tensor) -> None:
    histogram = GradientHistogram.of(tensor)
    assert GradientHistogram.from_bytes(histogram.to_bytes()) == histogram


def test_bytes_hold_counts_of_any_size() -> None:
    counts = np.array([1, 254, 255, 256, 1 << 20, (1 << 62) + 1])
    bins = np.array([-INFINITY_BIN, -1000, 0, 5000, INFINITY_BIN, NAN_BIN], dtype=np.int32)
    histogram = GradientHistogram(bins, counts)
    assert GradientHistogram.from_bytes(bytearray(histogram.to_bytes())) == histogram


@given(st.lists(tensors(), max_size=5))
def test_bytes_are_the_same_one_by_one_and_together(parts: list[torch.Tensor]) -> None:
    histograms = [GradientHistogram.of(part) for part in parts]
    histograms.append(sum(histograms, GradientHistogram.of(torch.empty(0))))
    together = GradientHistogram.all_to_bytes(histograms)
    assert together == [histogram.to_bytes() for histogram in histograms]
    assert [GradientHistogram.from_bytes(data) for data in together] == histograms


def test_a_typical_layer_takes_less_than_250_bytes() -> None:
    assert len(GradientHistogram.of(normal(2_500)).to_bytes()) < 250


def test_bytes_of_format_1_stay_readable() -> None:
    bins = [-INFINITY_BIN, -5, 0, 1, NAN_BIN]
    counts = [3, 1, 254, 255, 1_000]
    distances = [1, INFINITY_BIN - 5, 5, 1, NAN_BIN - 1]
    small = bytes([1, 255, 5, 1, 255, 3, 1, 254, 255, 255])
    excesses = [distances[1] - 255, distances[4] - 255, 0, 745]
    header = len(bins).to_bytes(4, "little") + b"\x02"
    payload = header + small + b"".join(excess.to_bytes(2, "little") for excess in excesses)
    histogram = GradientHistogram.from_bytes(b"GH\x01" + zlib.compress(payload))
    assert counted(histogram) == dict(zip(bins, counts, strict=True))


def decoded(data: bytes | bytearray) -> GradientHistogram | None:
    try:
        return GradientHistogram.from_bytes(data)
    except ArgumentError:
        return None


def test_damaged_bytes_are_recognised() -> None:
    histogram = GradientHistogram.of(normal(50))
    data = histogram.to_bytes()
    for length in range(len(data)):
        with pytest.raises(ArgumentError, match="no gradient histogram, or a damaged one"):
            GradientHistogram.from_bytes(data[:length])
    with pytest.raises(ArgumentError):
        GradientHistogram.from_bytes(data + b"\0")
    for bit in range(24, 8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        assert decoded(damaged) in (None, histogram)  # a few bits fill up a byte and mean nothing


@given(st.binary(max_size=60), st.booleans())
def test_foreign_bytes_are_recognised(payload: bytes, compressed: bool) -> None:
    histogram = decoded(b"GH\x01" + (zlib.compress(payload) if compressed else payload))
    assert histogram is None or decoded(histogram.to_bytes()) == histogram


IMPOSSIBLE = {
    "no counts": ([1, 1], [5, 0]),
    "bins twice": ([1, 0], [5, 5]),
    "bins beyond the last": ([200] * 400, [1] * 400),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_histograms_are_not_read(name: str) -> None:
    distances, counts = IMPOSSIBLE[name]
    payload = len(counts).to_bytes(4, "little") + b"\0" + bytes(distances) + bytes(counts)
    with pytest.raises(ArgumentError, match="impossible bins or counts"):
        GradientHistogram.from_bytes(b"GH\x01" + zlib.compress(payload))


def test_a_later_format_asks_for_an_update() -> None:
    with pytest.raises(ArgumentError, match=r"format 2, and .* update gradpath"):
        GradientHistogram.from_bytes(b"GH\x02")


# Statistics


@given(tensors().filter(lambda tensor: (~tensor.isnan()).any()), st.floats(0, 1))
def test_quantiles_are_in_the_bin_of_the_exact_order_statistic(
    tensor: torch.Tensor, q: float
) -> None:
    exact = np.sort(tensor[~tensor.isnan()].double().numpy())
    ranks = {0, int(q * (len(exact) - 1)), len(exact) - 1}
    histogram = GradientHistogram.of(tensor)
    for values, quantile in (
        (exact, histogram.quantile),
        (np.sort(np.abs(exact)), histogram.magnitude_quantile),
    ):
        for rank in ranks:
            found = quantile(rank / max(1, len(exact) - 1))
            near = values[max(0, rank - 1) : rank + 2]  # rank / n is rounded
            assert explicit_bin(near[0]) <= explicit_bin(found) <= explicit_bin(near[-1])


@pytest.mark.parametrize("entries", [1, 2, 11, 5_000])
def test_quantiles_follow_numpy_to_within_a_sixteenth(entries: int) -> None:
    values = torch.randn(entries) ** 5
    q = np.linspace(0, 1, 101)
    histogram = GradientHistogram.of(values)
    exact = np.quantile(np.abs(values.double().numpy()), q)
    np.testing.assert_allclose(histogram.magnitude_quantile(q), exact, rtol=1 / 16)
    exact = np.quantile(values.double().numpy(), q)
    # Between a negative and a positive neighbour, the errors of both count.
    steps = np.quantile(values.double().numpy(), q, method="higher") - np.quantile(
        values.double().numpy(), q, method="lower"
    )
    assert (np.abs(histogram.quantile(q) - exact) <= (np.abs(exact) + 2 * steps) / 16).all()
    assert (np.diff(histogram.quantile(q)) >= 0).all()
    assert histogram.quantile(q.reshape(1, 101)).shape == (1, 101)
    assert isinstance(histogram.quantile(0.5), float)


def test_quantiles_take_the_entries_of_a_bin_to_be_spread_evenly() -> None:
    histogram = GradientHistogram.of(torch.tensor([1.0, 1.01, -1.0]))
    expected = [-1 - 2 / 64, 1 + 1 / 64, 1 + 3 / 64]
    assert histogram.quantile([0.0, 0.5, 1.0]) == pytest.approx(expected)


def test_quantiles_of_infinities_are_infinite() -> None:
    histogram = GradientHistogram.of(torch.tensor([-INF, 1.0, INF, INF, NAN]))
    assert histogram.quantile([0.0, 0.1, 0.6, 1.0]).tolist() == [-INF, -INF, INF, INF]
    assert histogram.quantile(1 / 3) == pytest.approx(1, rel=1 / 16)
    assert histogram.max_magnitude == histogram.mean_magnitude == INF


def test_statistics_of_nothing_are_missing_not_zero() -> None:
    for tensor in (torch.empty(0), torch.tensor([NAN, NAN])):
        histogram = GradientHistogram.of(tensor)
        found = [
            histogram.quantile(0.5),
            *histogram.magnitude_quantile([0.1, 0.2]),
            histogram.mean_magnitude,
            histogram.max_magnitude,
            histogram.fraction_below(1.0),
        ]
        assert np.isnan(found).all()
        assert histogram.count == len(tensor)
        assert "median=nan" in repr(histogram)


@pytest.mark.parametrize("dtype", DTYPES)
def test_mean_and_largest_magnitude_are_within_a_sixteenth(dtype: torch.dtype) -> None:
    values = (torch.randn(3_000) ** 3).to(dtype)
    histogram = GradientHistogram.of(values)
    magnitudes = values.double().abs()
    assert histogram.mean_magnitude == pytest.approx(magnitudes.mean().item(), rel=1 / 16)
    assert histogram.max_magnitude == pytest.approx(magnitudes.max().item(), rel=1 / 16)


def test_the_mean_of_the_largest_numbers_does_not_overflow() -> None:
    largest = torch.finfo(torch.float64).max
    histogram = GradientHistogram.of(torch.tensor([largest, -largest], dtype=torch.float64))
    assert histogram.mean_magnitude == pytest.approx(largest, rel=1 / 16)


def test_the_fraction_below_is_exact_between_bins() -> None:
    values = torch.cat([normal(5_000), torch.zeros(100), torch.tensor([INF, NAN])])
    histogram = GradientHistogram.of(values)
    thresholds = 2.0 ** np.arange(-30, 0) * 1.0625
    magnitudes = values.double().abs().numpy()[:-1]
    exact = (magnitudes < thresholds[:, None]).mean(axis=1)
    np.testing.assert_allclose(histogram.fraction_below(thresholds), exact, rtol=1e-14)
    assert histogram.fraction_below(0.0) == histogram.fraction_below(-1.0) == 0
    assert histogram.fraction_below(1e-300) == 100 / 5_101
    assert histogram.fraction_below(INF) == 5_100 / 5_101


WRONG: dict[str, Callable[[GradientHistogram], object]] = {
    "probability": lambda h: h.quantile(1.5),
    "probabilities": lambda h: h.magnitude_quantile([0.5, NAN]),
    "threshold": lambda h: h.fraction_below(NAN),
    "edges": lambda h: h.density(np.array([0.0, 0.0])),
    "one edge": lambda h: h.density(np.array([0.0])),
    "bins": lambda h: h.to_numpy(0),
    "range": lambda h: signed_log_edges(linear_below=1.0, limit=1.0),
    "resolution": lambda h: signed_log_edges(linear_below=1.0, limit=2.0, per_decade=0),
}


@pytest.mark.parametrize("name", WRONG)
def test_impossible_arguments_are_refused(name: str) -> None:
    with pytest.raises(ArgumentError):
        WRONG[name](GradientHistogram.of(normal(10)))


# Plotting


def test_the_density_is_exact_where_edges_are_those_of_bins() -> None:
    values = torch.cat([normal(4_000, 1.0), torch.zeros(10)])
    powers = 2.0 ** np.arange(-8, 3)
    edges = np.concatenate([np.nextafter(-powers[::-1], 0), [0.0], powers])
    expected, _ = np.histogram(values.double().numpy(), edges)
    found = GradientHistogram.of(values).density(edges) * np.diff(edges)
    np.testing.assert_allclose(found, expected / 4_010, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("per_decade", [1, 7, 100])
def test_the_density_integrates_to_what_is_finite_within_the_edges(per_decade: int) -> None:
    values = torch.cat([normal(900), torch.zeros(50), torch.tensor([NAN] * 30 + [INF] * 20)])
    histogram = GradientHistogram.of(values)
    low, high = histogram.signed_log_range()
    edges = signed_log_edges(linear_below=low, limit=high, per_decade=per_decade)
    assert (histogram.density(edges) * np.diff(edges)).sum() == pytest.approx(0.95)
    half = np.array([0.0, 1.0])
    share = ((values >= 0) & values.isfinite()).sum().item() / 1_000
    assert histogram.density(half).item() == pytest.approx(share)
    assert histogram.density(np.array([-1.0, 0.0])).item() == pytest.approx(1 - 0.05 - share + 0.05)


def test_entries_in_one_bin_are_spread_evenly_over_it() -> None:
    histogram = GradientHistogram.of(torch.full((8,), 1.01))
    quarters = 1 + np.arange(5) / 64
    np.testing.assert_allclose(histogram.density(quarters), 16)
    assert np.isnan(GradientHistogram.of(torch.empty(0)).density(quarters)).all()


def test_signed_log_edges_suit_a_symlog_axis() -> None:
    edges = signed_log_edges(linear_below=1e-4, limit=1.0, per_decade=8)
    assert (np.diff(edges) > 0).all()
    np.testing.assert_allclose(edges, -edges[::-1])
    assert len(edges) % 2 == 0  # zero is in the middle of a bin
    assert (edges[0], edges[-1]) == (-1.0, 1.0)
    logarithmic = edges[edges > 0.99e-4]
    np.testing.assert_allclose(np.diff(np.log10(logarithmic)), 1 / 8)
    np.testing.assert_allclose(np.diff(edges[np.abs(edges) < 1.01e-4]), 2e-4 / 15)


RANGES = {
    "within the decades": (torch.tensor([0.002, -0.03, 0.5]), (1e-3, 1.0)),
    "more than six decades": (torch.tensor([1e-20, 0.5]), (1e-6, 1.0)),
    "a few far below": (torch.tensor([1e-9] + [0.02] * 200), (0.01, 0.1)),
    "one value": (torch.full((5,), 3.0), (1.0, 10.0)),
    "a power of ten": (torch.full((5,), 1.0), (1.0, 10.0)),
    "zeros alone": (torch.zeros(5), (0.1, 1.0)),
    "infinities beside": (torch.tensor([0.2, 0.5, INF, NAN, 0.0]), (0.1, 1.0)),
    "smallest": (torch.tensor([5e-324], dtype=torch.float64), (1e-307, 1e-306)),
    "largest": (torch.tensor([1.7e308], dtype=torch.float64), (1e307, 1e308)),
}


@pytest.mark.parametrize("name", RANGES)
def test_the_range_of_a_signed_log_axis_holds_all_entries(name: str) -> None:
    values, expected = RANGES[name]
    assert GradientHistogram.of(values).signed_log_range() == pytest.approx(
        expected, rel=1e-12, abs=0
    )


@given(tensors(), st.sampled_from([1, 2, 3, 10, 512]))
def test_numpy_would_count_the_same_between_the_edges_exported(
    tensor: torch.Tensor, max_bins: int
) -> None:
    finite = tensor[tensor.isfinite()].double().numpy()
    counts, edges = GradientHistogram.of(tensor).to_numpy(max_bins)
    assert len(counts) <= max_bins
    assert len(edges) == len(counts) + 1
    assert (np.diff(edges) > 0).all()
    assert np.isfinite(edges).all()
    with np.errstate(over="ignore"):  # numpy subtracts the outermost edges
        np.testing.assert_array_equal(counts, np.histogram(finite, edges)[0])


def test_zeros_have_all_the_room_between_their_neighbours() -> None:
    counts, edges = GradientHistogram.of(torch.tensor([-1.0, 0.0, 0.0, 1.0])).to_numpy()
    assert counts.tolist() == [1, 2, 1]
    np.testing.assert_allclose(edges, [-1.0625, -1.0, 1.0, 1.0625])


def test_export_keeps_single_bins_where_entries_are_dense() -> None:
    values = torch.cat([normal(1_000_000), torch.tensor([1e-30, 1e10])])
    counts, edges = GradientHistogram.of(values).to_numpy()
    assert len(counts) == 512
    assert counts.sum() == len(values)
    dense = (edges[:-1] > 2e-4) & (edges[1:] < 3e-3)
    assert (edges[1:] / edges[:-1])[dense].max() < 1.07
    assert counts[-2:].tolist() == [0, 1]  # the outlier still stands where it was, alone
    assert edges[-1] / edges[-2] < 1.07


def test_changing_what_was_exported_does_not_change_the_histogram() -> None:
    histogram = GradientHistogram.of(torch.zeros(3))
    counts, _ = histogram.to_numpy()
    assert counts.tolist() == [3]
    assert histogram.zeros == 3


# By layer


@pytest.fixture
def layout() -> ParameterLayout:
    layers = [torch.nn.Linear(2, 50), torch.nn.Linear(50, 9), torch.nn.Linear(9, 1)]
    return ParameterLayout.of(torch.nn.Sequential(*layers))


def mixed_gradients(dtype: torch.dtype, layout: ParameterLayout, terms: int = 3) -> torch.Tensor:
    gradients = (torch.randn(terms, layout.size) * 1e-3).to(dtype)
    gradients[1, : layout.size // 2] = 0
    gradients[-1, -len(specials(dtype)) :] = specials(dtype)
    return gradients


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("cells", "chunk"), [(16, 1 << 18), (1, 1 << 18), (2, 700), (16, 100)])
def test_layers_have_the_histograms_of_their_slices(
    dtype: torch.dtype,
    cells: int,
    chunk: int,
    layout: ParameterLayout,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(counting, "_CELLS", cells)
    monkeypatch.setattr(counting, "_CHUNK", chunk)
    gradients = mixed_gradients(dtype, layout)
    histograms = histograms_by_layer(gradients, layout)
    assert list(histograms) == [(term, layer) for term in range(3) for layer in ("0", "1", "2")]
    for (term, layer), histogram in histograms.items():
        assert histogram == GradientHistogram.of(gradients[int(term), layout.slices[layer]])
        assert GradientHistogram.from_bytes(histogram.to_bytes()) == histogram


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("smallest", [-120, -60, -48, -47, -20])
def test_entries_far_below_the_largest_of_their_row_are_counted(
    smallest: int, dtype: torch.dtype, layout: ParameterLayout
) -> None:
    gradients = torch.rand(3, layout.size, dtype=torch.float64) + 1
    gradients *= 2.0 ** torch.randint(smallest, 1, gradients.shape)
    gradients *= torch.tensor([[1.0], [-1e-30], [1e30]])  # each row has a scale of its own
    gradients[0, :5] = 0
    gradients[1, layout.slices["2"]] = 0
    gradients[2, 7:9] = torch.tensor([INF, NAN])
    gradients = gradients.to(dtype)
    for (term, layer), histogram in histograms_by_layer(gradients, layout).items():
        assert counted(histogram) == explicit(gradients[int(term), layout.slices[layer]])


def test_terms_with_names_are_known_by_them(layout: ParameterLayout) -> None:
    gradients = mixed_gradients(torch.float32, layout, terms=2)
    named = TermGradients.of(gradients, ("residual", "boundary"))
    histograms = histograms_by_layer(named, layout)
    assert {term for term, _ in histograms} == {"residual", "boundary"}
    total = sum(histogram for (term, _), histogram in histograms.items() if term == "boundary")
    assert total == GradientHistogram.of(gradients[1])


def test_any_memory_layout_of_the_matrix_will_do(layout: ParameterLayout) -> None:
    gradients = mixed_gradients(torch.float32, layout)
    expected = histograms_by_layer(gradients, layout)
    assert histograms_by_layer(gradients.T.contiguous().T, layout) == expected
    assert histograms_by_layer(gradients.repeat(1, 2)[:, : layout.size], layout) == expected
    turned = torch.complex(gradients, -gradients).conj().imag
    assert histograms_by_layer(turned, layout) == expected
    assert histograms_by_layer(gradients[:0], layout) == {}


def test_gradients_that_do_not_fit_the_layout_are_refused(layout: ParameterLayout) -> None:
    with pytest.raises(LayoutError, match="columns"):
        histograms_by_layer(torch.ones(2, layout.size - 1), layout)
    with pytest.raises(ArgumentError, match="matrix"):
        histograms_by_layer(torch.ones(layout.size), layout)
