"""From tensors to counted bins: every entry is read once, and no copy grows with the tensor.

A chunk of entries is shifted right to its codes (see `FloatFormat`) in a small buffer that stays in
the processor's cache, and the codes are counted there, which is several times faster than looking
up the edges of bins (benchmarks/bench_histograms.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, pairwise

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import csc_array
from torch import Tensor

from .errors import ArgumentError
from .histogram_bins import PER_OCTAVE, Bins, Bits, Codes, Counts, FloatFormat, combine
from .histogram_places import MIDDLE, PLACES, CountedPlaces, bins_of_places, places_of_codes

_FORMATS = {
    torch.float16: FloatFormat(np.uint16, exponent_bits=5, mantissa_bits=10),
    torch.bfloat16: FloatFormat(np.uint16, exponent_bits=8, mantissa_bits=7),
    torch.float32: FloatFormat(np.uint32, exponent_bits=8, mantissa_bits=23),
    torch.float64: FloatFormat(np.uint64, exponent_bits=11, mantissa_bits=52),
}
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}

_CHUNK = 1 << 18  # entries at a time: their codes take 1 MB
_FEW = (1 << 15) - 1  # entries at most for which torch.bincount is as quick and starts no threads
_DEVICE_CHUNK = 1 << 22  # on other devices than the CPU, where every chunk is waited for
_WORTH_A_THREAD = 1 << 20  # entries; starting a thread takes as long as counting a tenth of them
_CELLS = 32  # cells counted at once: their counts by place take 200 kB


def count_entries(tensor: Float[Tensor, "*shape"]) -> tuple[Bins, Counts]:
    """Returns the occupied bins of a tensor's entries, in ascending order, and their counts.

    Raises:
        ArgumentError: it is no dense tensor of a dtype whose bits are known here.
    """
    form = _format_of(tensor)
    tensor = tensor.detach()
    flat = _flat_view(tensor)
    if flat is None:
        return _count(form, _flat_copies(tensor))
    if not flat.is_cpu:
        return _count(form, torch.split(flat, _DEVICE_CHUNK))
    # As many threads as torch itself would use; numpy and scipy let go of the interpreter's lock.
    threads = min(torch.get_num_threads(), len(flat) // _WORTH_A_THREAD)
    if threads < 2:
        return _count(form, torch.split(flat, _CHUNK))
    chunks = deque(torch.split(flat, _CHUNK))
    with ThreadPoolExecutor(threads) as pool:
        return _joined(list(pool.map(lambda _: _count(form, _taken(chunks)), range(threads))))


def count_cells(
    matrix: Float[Tensor, "rows columns"], widths: Sequence[int]
) -> list[tuple[Bins, Counts]]:
    """Returns `count_entries` of each cell, row by row; cells are as many columns wide as given.

    Raises:
        ArgumentError: it is no dense tensor of a dtype whose bits are known here.
    """
    form = _format_of(matrix)
    matrix = matrix.detach().resolve_neg()
    if matrix.shape[1] > _CHUNK:
        return [count_entries(cell) for row in matrix for cell in torch.split(row, list(widths))]
    bits = _bits_of(matrix.cpu(), form)
    rows_at_once = max(1, min(_CELLS // len(widths), _CHUNK // matrix.shape[1], len(bits)))
    columns = [0, *accumulate(widths)]
    counters = [
        (first, _PlaceCounter(form, rows_at_once, widths[first : first + _CELLS]))
        for first in range(0, len(widths), _CELLS)
    ]
    counted = []
    for row in range(0, len(bits), rows_at_once):
        for first, counter in counters:
            limits = columns[first : first + _CELLS + 1]
            block = bits[row : row + rows_at_once, limits[0] : limits[-1]]
            some = widths[first : first + _CELLS]
            counted += _cells_of(counter.count(block), form, block, some)
    return counted


def count_places(
    matrices: Float[Tensor, "matrices rows columns"], widths: Sequence[int]
) -> Iterator[tuple[CountedPlaces, int]]:
    """Yields the counted places of some matrices and how many they are, until all are counted.

    Raises:
        ArgumentError: they are no dense tensor of a dtype whose bits are known here.
    """
    form = _format_of(matrices)
    number, rows, columns = matrices.shape
    at_once = max(1, min(_CELLS // (rows * len(widths)), _CHUNK // (rows * columns), number))
    bits = _bits_of(matrices.detach().resolve_neg().cpu(), form)
    counter = _PlaceCounter(form, at_once * rows, widths)
    for first in range(0, number, at_once):
        block = bits[first : first + at_once]
        yield counter.count(block.reshape(-1, columns)), len(block)


def _format_of(tensor: Tensor) -> FloatFormat:
    if not isinstance(tensor, Tensor) or tensor.dtype not in _FORMATS:
        given = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise ArgumentError(
            f"A histogram of {given} was asked for; tensors of float16, bfloat16, float32 or "
            "float64 have one (of a complex tensor, take torch.view_as_real)."
        )
    if tensor.layout != torch.strided or tensor.is_meta:
        raise ArgumentError(
            f"A histogram needs the entries themselves, and a tensor of layout {tensor.layout} on "
            f"device {str(tensor.device)!r} does not hold them all: give its .to_dense()."
        )
    return _FORMATS[tensor.dtype]


def _flat_view(tensor: Tensor) -> Tensor | None:
    """Returns all entries as one flat view, in any order; None where only a copy could be flat."""
    if not tensor.is_contiguous():
        by_stride = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
        tensor = tensor.permute(by_stride)
    return tensor.view(-1) if tensor.is_contiguous() and not tensor.is_neg() else None


def _flat_copies(tensor: Tensor) -> Iterator[Tensor]:
    """Yields all entries, a chunk at a time."""
    if tensor.numel() <= _CHUNK:
        yield tensor.reshape(-1).resolve_neg()
        return
    longest = max(range(tensor.ndim), key=tensor.size)
    for half in tensor.chunk(2, longest):
        yield from _flat_copies(half)


def _taken(chunks: deque[Tensor]) -> Iterator[Tensor]:
    """Yields chunks until none is left, sharing them with other threads that take from the same."""
    while True:
        try:
            yield chunks.popleft()
        except IndexError:
            return


def _count(form: FloatFormat, chunks: Iterable[Float[Tensor, " entries"]]) -> tuple[Bins, Counts]:
    by_code = np.zeros(form.number_of_codes, dtype=np.int64)
    counted = []
    counter: _Counter | None = None
    for chunk in chunks:
        if chunk.is_cpu and len(chunk) > _FEW:
            if counter is None or len(chunk) > counter.capacity:
                counter = _Counter(form, len(chunk))
            found = counter.count(_bits_of(chunk, form))
        else:
            codes = _codes_of(chunk, form) if chunk.is_cpu else _codes_on_device(chunk, form)
            found = torch.bincount(codes, minlength=form.number_of_codes).cpu().numpy()
        outside = form.outside(found)
        if outside.any():
            bits = _bits_of(chunk.cpu(), form)
            counted.append(form.count_outside(bits, int(outside.sum())))
            outside[...] = 0
        by_code += found
    occupied = np.flatnonzero(by_code != 0)
    return _joined([*counted, (form.bins[occupied], by_code[occupied])])


class _Counter:
    """Counts the codes of a chunk, as the product of a sparse matrix with the number 1.

    The matrix is one column with a 1 in the row of each code, and scipy's product of compressed
    columns is the plain loop `counts[code[i]] += 1`, without the interpreter's lock. To that,
    `torch.bincount` adds a search for minimum and maximum, on threads of its own for each thread of
    ours, and `numpy.bincount` a conversion to int64.
    """

    def __init__(self, form: FloatFormat, capacity: int) -> None:
        self.capacity = capacity
        ones, codes = (np.ones(capacity, dtype=np.int32) for _ in range(2))
        limits = np.array([0, capacity], dtype=np.int32)
        self._matrix = csc_array((ones, codes, limits), shape=(form.number_of_codes, 1))
        self._form = form

    def count(self, bits: Bits) -> Codes:
        self._form.codes(bits, out=self._matrix.indices[: len(bits)])
        self._matrix.indptr[1] = len(bits)  # the rest of the column is left out
        counts: Codes = self._matrix.dot(np.ones(1, dtype=np.int32))
        return counts


class _PlaceCounter:
    """Counts the cells of matrices of one width, row by row.

    Their places are counted as `_Counter` counts codes.

    Args:
        form: of their entries.
        rows: the most that a matrix has.
        widths: how many columns each cell of a row has.
    """

    def __init__(self, form: FloatFormat, rows: int, widths: Sequence[int]) -> None:
        self._form = form
        self._cells = len(widths)
        cells, size = rows * len(widths), rows * sum(widths)
        first = np.arange(0, cells * PLACES, PLACES, dtype=np.int32).reshape(rows, -1)
        self._first_places = np.repeat(first, widths, axis=1)
        ones, places = (np.ones(size, dtype=np.int32) for _ in range(2))
        limits = np.array([0, size], dtype=np.int32)
        self._matrix = csc_array((ones, places, limits), shape=(cells * PLACES, 1))

    def count(self, bits: Bits) -> CountedPlaces:
        """Returns the counts of a matrix, given by the bits of its entries."""
        form, rows = self._form, len(bits)
        codes = form.codes(bits)
        direct = form.direct_magnitudes
        magnitudes = codes & (form.number_of_codes // 2 - 1)  # without the sign
        tops = magnitudes.max(axis=1).tolist()
        if max(tops) >= direct.stop:  # infinities, say
            tops = np.where(magnitudes < direct.stop, magnitudes, 0).max(axis=1).tolist()
        lowest = [max(direct.start, (top // PER_OCTAVE + 1) * PER_OCTAVE - MIDDLE) for top in tops]
        matrix = self._matrix
        places = matrix.indices[: bits.size].reshape(bits.shape)
        for row, low in enumerate(lowest):
            # "wrap" has nothing to wrap; "raise" would make a copy first.
            places_of_codes(form, low).take(codes[row], out=places[row], mode="wrap")
        places += self._first_places[:rows]
        matrix.indptr[1] = bits.size  # the rest of the column is left out
        cells = rows * self._cells
        counts = matrix.dot(np.ones(1, dtype=np.int32))[: cells * PLACES].reshape(cells, PLACES)
        first_bin = int(form.bins[direct.start]) - direct.start - 1
        nearest = np.repeat(np.array(lowest, dtype=np.int32) + np.int32(first_bin), self._cells)
        in_the_middle = int(counts[:, MIDDLE].sum())
        has_others = in_the_middle > 0 and in_the_middle != bits.size - np.count_nonzero(
            bits << form.bits(1)  # without the sign, which -0.0 has
        )
        return CountedPlaces(counts, nearest, has_others)


def _bits_of(tensor: Tensor, form: FloatFormat) -> Bits:
    bits: Bits = tensor.view(_INTEGERS[tensor.itemsize]).numpy().view(form.bits)
    return bits


def _codes_of(chunk: Tensor, form: FloatFormat) -> Tensor:
    return torch.from_numpy(form.codes(_bits_of(chunk, form)))


def _codes_on_device(chunk: Tensor, form: FloatFormat) -> Tensor:
    """Returns the same, computed where the tensor is."""
    bits = chunk.view(_INTEGERS[chunk.itemsize])
    mask = (1 << (8 * chunk.itemsize - form.shift)) - 1  # torch shifts copies of the sign in
    leading = (bits >> form.shift) & mask
    if form.narrowed is None:
        return leading
    return torch.from_numpy(form.narrowed).to(chunk.device)[leading]


def _cells_of(
    counted: CountedPlaces, form: FloatFormat, bits: Bits, widths: Sequence[int]
) -> list[tuple[Bins, Counts]]:
    """Returns the counted bins of each cell of a small matrix, whose places have been counted."""
    cells, occupied = np.nonzero(counted.counts)
    limits = [*cells.searchsorted(np.arange(len(counted.counts))).tolist(), len(cells)]
    bins = bins_of_places(occupied, MIDDLE, counted.nearest[cells])
    counts = counted.counts[cells, occupied].astype(np.int64)
    found = [(bins[start:stop], counts[start:stop]) for start, stop in pairwise(limits)]
    if counted.has_others:
        # The cells with others are counted again, each for itself.
        columns = [0, *accumulate(widths)]
        for cell in np.flatnonzero(counted.counts[:, MIDDLE]).tolist():
            row, column = divmod(cell, len(widths))
            entries = bits[row, columns[column] : columns[column + 1]]
            found[cell] = _count(form, [torch.from_numpy(entries)])
    return found


def _joined(counted: Sequence[tuple[Bins, Counts]]) -> tuple[Bins, Counts]:
    bins, counts = zip(*counted, strict=True)
    return combine(np.concatenate(bins), np.concatenate(counts))
