"""Many histograms as few bytes, made for hundreds of them at once.

Where every step of a training is recorded, making bytes of its histograms one by one
(`histogram_bytes.py`) takes longer than counting them. Here all numbers of many tables are put in
their places by a few calls of numpy. It takes a third more bytes, for there is no Huffman code.

A table holds the histograms of one step. There are two kinds. Where all entries have a place of
their own or are zero (`histogram_places.py`), which is the rule, places are said by bits. After
magic and version (three bytes) follow, all little-endian,

    how many histograms it has (uint16), which place is the middle one (uint16); for each histogram
    how much further from zero its bins are than its places from the middle (int32); for each 8
    places a bit: whether any histogram needs them; for each histogram a bit for each of those that
    are needed: whether it is occupied; the count of each occupied place (4 bits, 0 where it is 16
    or more; half a byte without a meaning after an odd number), counts less 16 where they are 0
    (uint8, 255 where it is 255 or more), those that are 255 or more (uint64)

For any others, there is a more general kind:

    how many histograms it has (uint16), how many bins each has (uint32), the first bin of each
    (int32), for each bin a bit: whether it is further than 1 from the one before, the count of each
    bin (4 bits, 0 where it is 16 or more), distances less 2 where the bit says so, counts less 16
    where they are 0 (uint8 each, 255 where it is 255 or more), those that are 255 or more (uint64)

where bits and counts fill a multiple of 8 bins, with zeros at the end.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import ArgumentError
from .histogram_bins import Bins, Counts
from .histogram_places import MIDDLE, CountedPlaces, bins_of_places

_START = b"GT\x01"
_START_OF_PLACES = b"GT\x02"
_HEAD_OF_PLACES = struct.Struct("<HH")
_LARGE_GAP, _LARGE_COUNT, _ESCAPE = 2, 16, 255


def encode_places(counted: CountedPlaces, number: int) -> list[bytes]:
    """Returns counted places, none of which is shared by different bins, as so many tables."""
    size = len(counted.counts) // number
    is_occupied = counted.counts != 0
    bits = np.packbits(is_occupied, axis=1)
    is_needed = bits.any(axis=0)
    bits = bits[:, is_needed]
    occupied = np.flatnonzero(is_occupied)
    counts = counted.counts.reshape(-1)[occupied]
    large = np.flatnonzero(counts >= _LARGE_COUNT)
    excess = counts[large] - _LARGE_COUNT
    has_wide = len(excess) > 0 and bool(excess.max() >= _ESCAPE)
    small_excess = np.minimum(excess, _ESCAPE).astype(np.uint8)
    halves = np.zeros(len(counts) + 1, dtype=np.uint8)
    halves[:-1] = counts
    halves[large] = 0
    limits = occupied.searchsorted(np.arange(number + 1) * (size * counted.counts.shape[1]))
    limits_of_large = large.searchsorted(limits).tolist()
    head = _START_OF_PLACES + _HEAD_OF_PLACES.pack(size, MIDDLE)
    needed = np.packbits(is_needed).tobytes()
    nearest = counted.nearest.astype("<i4", copy=False)
    tables = []
    for table, (start, end) in enumerate(pairwise(limits.tolist())):
        cells = slice(table * size, (table + 1) * size)
        pieces = [head, nearest[cells].tobytes(), needed, bits[cells].tobytes()]
        # Where the number is odd, what comes after it makes the last byte full.
        pairs = halves[start : end + (end - start) % 2]
        pieces.append((pairs[::2] << 4 | pairs[1::2]).tobytes())
        of_table = slice(limits_of_large[table], limits_of_large[table + 1])
        pieces.append(small_excess[of_table].tobytes())
        if has_wide:
            some = excess[of_table]
            pieces.append(some[some >= _ESCAPE].astype("<u8").tobytes())
        tables.append(b"".join(pieces))
    return tables


def encode_tables(counted: Sequence[tuple[Bins, Counts]], size: int) -> list[bytes]:
    """Returns the counted bins of histograms as bytes that `decode_table` reads, a table each.

    Args:
        counted: the histograms of all tables, one table after the other.
        size: how many histograms a table has.
    """
    if not counted:
        return []
    lengths = np.array([len(bins) for bins, _ in counted], dtype="<u4")
    bins = np.concatenate([bins for bins, _ in counted])
    counts = np.concatenate([counts for _, counts in counted])
    firsts = np.cumsum(lengths) - lengths
    occupied = lengths > 0
    distances = np.ones(len(bins), dtype=np.int64)
    np.subtract(bins[1:], bins[:-1], out=distances[1:])
    distances[firsts[occupied]] = 1
    first_bins = np.zeros(len(lengths), dtype="<i4")
    first_bins[occupied] = bins[firsts[occupied]]

    of_table = lengths.reshape(-1, size).sum(axis=1, dtype=np.int64)
    ends = np.cumsum(of_table)
    padded = -(-of_table // 8) * 8
    padded_ends = np.cumsum(padded)
    shift = np.repeat((padded_ends - padded) - (ends - of_table), of_table)
    places = np.arange(len(bins)) + shift
    is_gap, is_large = distances >= _LARGE_GAP, counts >= _LARGE_COUNT
    flags = np.zeros(padded_ends[-1], dtype=bool)
    flags[places] = is_gap
    halves = np.zeros(padded_ends[-1], dtype=np.uint8)
    halves[places] = np.where(is_large, 0, counts)
    bits = np.packbits(flags).tobytes()
    small_counts = (halves[::2] << 4 | halves[1::2]).tobytes()
    gaps, large = np.flatnonzero(is_gap), np.flatnonzero(is_large)
    excess, wide, limits = [], [], []
    for where, values in (
        (gaps, distances[gaps] - _LARGE_GAP),
        (large, counts[large] - _LARGE_COUNT),
    ):
        limits.append([0, *where.searchsorted(ends).tolist()])
        excess.append(np.minimum(values, _ESCAPE).astype(np.uint8).tobytes())
        is_wide = np.flatnonzero(values >= _ESCAPE)
        wide.append(values[is_wide].astype("<u8").tobytes())
        limits.append([0, *(8 * where[is_wide].searchsorted(ends)).tolist()])
    gap_limits, wide_gap_limits, count_limits, wide_count_limits = limits
    heads = np.concatenate(
        [lengths.reshape(-1, size).view(np.uint8), first_bins.reshape(-1, size).view(np.uint8)],
        axis=1,
    )
    start = _START + size.to_bytes(2, "little")
    stops = padded_ends.tolist()
    encoded = []
    for table, stop in enumerate(stops):
        begin = stops[table - 1] if table else 0
        encoded.append(
            b"".join(
                [
                    start,
                    heads[table].tobytes(),
                    bits[begin // 8 : stop // 8],
                    small_counts[begin // 2 : stop // 2],
                    excess[0][gap_limits[table] : gap_limits[table + 1]],
                    excess[1][count_limits[table] : count_limits[table + 1]],
                    wide[0][wide_gap_limits[table] : wide_gap_limits[table + 1]],
                    wide[1][wide_count_limits[table] : wide_count_limits[table + 1]],
                ]
            )
        )
    return encoded


def decode_table(data: bytes | bytearray | memoryview) -> list[tuple[Bins, Counts]]:
    """Returns the counted bins of each histogram of a table.

    Raises:
        ArgumentError: the bytes are something else, or damaged.
    """
    data = bytes(data)
    try:
        if data.startswith(_START_OF_PLACES):
            return _parse_places(data)
        if data.startswith(_START):
            return _parse(data)
        raise ValueError("the first bytes are not those of a table")
    except ValueError as error:
        raise ArgumentError(
            f"{len(data)} bytes were given that are no table of histograms, or a damaged one "
            f"({error}); only what gradpath has written can be read."
        ) from error


class _Reader:
    """Takes numbers from bytes, one array after the other."""

    def __init__(self, data: bytes, place: int) -> None:
        self._data = data
        self._place = place

    def take(self, kind: str, number: int) -> NDArray[Any]:
        """Returns the next numbers."""
        found = np.frombuffer(self._data, kind, number, self._place)
        self._place += found.nbytes
        return found

    def take_halves(self, number: int, size: int) -> Counts:
        """Returns the next numbers of 4 bits, which take so many bytes."""
        pairs = self.take("u1", size)
        halves: Counts = np.stack([pairs >> 4, pairs & 15], axis=1).reshape(-1)[:number]
        return halves.astype(np.int64)

    def take_wide(self, small: NDArray[np.uint8]) -> Counts:
        """Returns numbers of one byte, with those that need more in their places."""
        values = small.astype(np.int64)
        values[small == _ESCAPE] = self.take("<u8", int((small == _ESCAPE).sum()))
        return values

    def end(self) -> None:
        """Refuses that there are more."""
        if self._place != len(self._data):
            raise ValueError("they end too early or too late")


def _parse_places(data: bytes) -> list[tuple[Bins, Counts]]:
    reader = _Reader(data, len(_START_OF_PLACES))
    size, middle = reader.take("<u2", 2).tolist()
    nearest = reader.take("<i4", size)
    length = middle // 4 + 1  # bytes that one bit a place would take
    is_needed = np.unpackbits(reader.take("u1", -(-length // 8)), count=length).astype(bool)
    bits = np.zeros((size, length), dtype=np.uint8)
    bits[:, is_needed] = reader.take("u1", size * int(is_needed.sum())).reshape(size, -1)
    cells, places = np.nonzero(np.unpackbits(bits, axis=1))
    counts = reader.take_halves(len(cells), -(-len(cells) // 2))
    is_large = counts == 0
    counts[is_large] = reader.take_wide(reader.take("u1", int(is_large.sum()))) + _LARGE_COUNT
    reader.end()
    bins = bins_of_places(places, middle, nearest[cells])
    limits = cells.searchsorted(np.arange(size + 1))
    return [(bins[start:stop], counts[start:stop]) for start, stop in pairwise(limits.tolist())]


def _parse(data: bytes) -> list[tuple[Bins, Counts]]:
    reader = _Reader(data, len(_START))
    take = reader.take
    (size,) = take("<u2", 1).tolist()
    lengths, first_bins = take("<u4", size), take("<i4", size)
    number = int(lengths.sum(dtype=np.int64))
    padded = -(-number // 8) * 8
    is_gap = np.unpackbits(take("u1", padded // 8), count=number).astype(bool)
    distances = np.ones(number, dtype=np.int64)
    counts = reader.take_halves(number, padded // 2)
    is_large = counts == 0
    gaps, large = take("u1", int(is_gap.sum())), take("u1", int(is_large.sum()))
    for target, where, small, least in (
        (distances, is_gap, gaps, _LARGE_GAP),
        (counts, is_large, large, _LARGE_COUNT),
    ):
        target[where] = reader.take_wide(small) + least
    reader.end()
    ends = np.cumsum(lengths, dtype=np.int64)
    found = []
    for first, stop, bin_ in zip((ends - lengths).tolist(), ends.tolist(), first_bins, strict=True):
        steps = distances[first:stop].copy()
        if len(steps):
            steps[0] = bin_
        found.append((np.cumsum(steps).astype(np.int32), counts[first:stop].copy()))
    return found
