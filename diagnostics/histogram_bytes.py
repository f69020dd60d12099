"""Counted bins as few bytes, for storing a histogram of every term and layer at every step.

Neighbouring bins are mostly occupied and most counts are small, so that both the distances between
occupied bins and the counts fit into a byte each, with an escape for larger ones. These bytes are
Huffman coded, which comes close to the entropy of the counts. After magic and version (three bytes)
follows a zlib stream of, all little-endian,

    number of bins (uint32), bytes of an excess (uint8),
    distance of each bin to the one before, count of each bin (uint8 each), excesses

where 255 stands for 255 plus the next excess, and the first distance is that to -INFINITY_BIN - 1.
"""

from __future__ import annotations

import struct
import zlib
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np

from .errors import ArgumentError
from .histogram_bins import INFINITY_BIN, NAN_BIN, Bins, Counts

_MAGIC = b"GH"
_VERSION = 1
_START = _MAGIC + bytes([_VERSION])
_HEADER = struct.Struct("<IB")
_ESCAPE = 255
_BEFORE_ALL = -INFINITY_BIN - 1
_LONGEST_PAYLOAD = 2 << 20  # more than all the bins there are can need


def encode(counted: Sequence[tuple[Bins, Counts]]) -> list[bytes]:
    """Returns the counted bins of each histogram as bytes that `decode` reads.

    Of several, the numbers are put together at once: an array is so short that a call of numpy
    takes longer than its work.
    """
    if not counted:
        return []
    limits = [0, *accumulate(len(bins) for bins, _ in counted)]
    total = limits[-1]
    # All distances, then all counts. A distance between two histograms means nothing.
    numbers = np.zeros(2 * total, dtype=np.int64)
    bins = np.concatenate([bins for bins, _ in counted])
    np.subtract(bins[1:], bins[:-1], out=numbers[1:total])
    np.concatenate([counts for _, counts in counted], out=numbers[total:])
    escaped = np.flatnonzero(numbers >= _ESCAPE)
    excesses = (numbers[escaped] - _ESCAPE).tolist()
    places = escaped.tolist()
    small = np.minimum(numbers, _ESCAPE).astype(np.uint8).tobytes()
    encoded = []
    for start, stop in pairwise(limits):
        first = int(bins[start]) - _BEFORE_ALL if start < stop else 0
        these = [first - _ESCAPE] * (first >= _ESCAPE)
        for low, high in ((start + 1, stop), (total + start, total + stop)):
            these += excesses[bisect_left(places, low) : bisect_left(places, high)]
        width = (max(these, default=0).bit_length() + 7) // 8
        payload = [
            _HEADER.pack(stop - start, width),
            bytes([min(first, _ESCAPE)])[: stop - start],
            small[start + 1 : stop],
            small[total + start : total + stop],
            *[excess.to_bytes(width, "little") for excess in these],
        ]
        # Of repetitions, only runs of one byte are worth looking for; more costs time and gains
        # none. The smallest window and little memory do for that, and have to be cleared first.
        deflate = zlib.compressobj(wbits=9, memLevel=5, strategy=zlib.Z_RLE)
        encoded.append(_START + deflate.compress(b"".join(payload)) + deflate.flush())
    return encoded


def decode(data: bytes | bytearray | memoryview) -> tuple[Bins, Counts]:
    """Returns the counted bins that `encode` wrote.

    Raises:
        ArgumentError: the bytes are something else, damaged, or of a later version.
    """
    data = bytes(data)
    if data[:2] == _MAGIC and len(data) > 2 and data[2] > _VERSION:
        raise ArgumentError(
            f"This histogram was written in format {data[2]}, and this version of gradpath reads "
            f"formats up to {_VERSION}: update gradpath."
        )
    try:
        if data[:3] != _START:
            raise ValueError("the first bytes are not those of a histogram")
        return _parse(_inflate(data[3:]))
    except (ValueError, struct.error, zlib.error) as error:
        raise ArgumentError(
            f"{len(data)} bytes were given that are no gradient histogram, or a damaged one "
            f"({error}); only what GradientHistogram.to_bytes returned can be read."
        ) from error


def _inflate(deflated: bytes) -> bytes:
    inflate = zlib.decompressobj()
    payload = inflate.decompress(deflated, _LONGEST_PAYLOAD)
    if not inflate.eof or inflate.unused_data:  # only at its end is the checksum compared
        raise ValueError("they end too early or too late")
    return payload


def _parse(payload: bytes) -> tuple[Bins, Counts]:
    number, width = _HEADER.unpack_from(payload)
    numbers = np.frombuffer(payload, np.uint8, 2 * number, _HEADER.size).astype(np.int64)
    escaped = np.flatnonzero(numbers == _ESCAPE)
    rest = np.frombuffer(payload, np.uint8, offset=_HEADER.size + 2 * number)
    excesses = np.zeros((len(escaped), 8), dtype=np.uint8)
    excesses[:, :width] = rest.reshape(len(escaped), width)
    numbers[escaped] += excesses.view("<i8").reshape(-1)
    distances, counts = numbers[:number], numbers[number:]
    # Added up as floats, which do not wrap around whatever the bytes say.
    if (numbers <= 0).any() or distances.sum(dtype=np.float64) > NAN_BIN - _BEFORE_ALL:
        raise ValueError("it has impossible bins or counts")
    return (_BEFORE_ALL + np.cumsum(distances)).astype(np.int32), counts
