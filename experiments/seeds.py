"""Random numbers of one seed for several purposes that must not share them."""

from __future__ import annotations

import hashlib

import torch


def generator_of(purpose: str, seed: int) -> torch.Generator:
    """Returns a generator on the CPU for one purpose of a seed.

    Neighbouring seeds and other purposes of the same seed have numbers of their own. An offset to
    the seed would not do: the generator uses 32 bits of it.
    """
    digest = hashlib.sha256(f"{purpose} {seed}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))
