"""The memory that one measurement takes on a small GPT of a hundred million parameters, two terms.

In units of one buffer of the model's size, beyond the peak of the same training step without a
probe. Each case runs in a process of its own, since the peak of a process never falls.

    python benchmarks/bench_probe_memory.py
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradpath.probes import Probe
from gradpath.probes.instruments import Instrument, Stiffness, light
from gradpath.probes.schedules import at

MAX_BASIS = 4
CASES = {"light": 6, "stiffness": MAX_BASIS + 4}  # the limit, in buffers


class Block(nn.Module):
    """Causal self-attention and a feed-forward layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first_norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.projection, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (batch, length, width) to the same."""
        batch, length, width = x.shape
        parts = self.projection(self.first_norm(x)).chunk(3, dim=-1)
        q, k, v = (p.view(batch, length, self.heads, -1).transpose(1, 2) for p in parts)
        scores = (q @ k.mT) / q.shape[-1] ** 0.5
        mask = torch.ones(length, length, dtype=torch.bool).triu(1)
        mixed = scores.masked_fill(mask, float("-inf")).softmax(dim=-1) @ v
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.narrow(F.gelu(self.wide(self.second_norm(x))))


class GPT(nn.Module):
    """A language model, with the logarithm of its normalisation as an auxiliary loss."""

    def __init__(self, vocabulary: int = 8192, width: int = 768, depth: int = 12) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(64, width)
        self.blocks = nn.Sequential(*(Block(width, 12) for _ in range(depth)))
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """Maps (batch, length) tokens to logits."""
        x = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1]))
        return self.head(self.blocks(x))


def peak() -> int:
    """Returns the most bytes that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(case: str) -> None:
    torch.manual_seed(0)
    model = GPT()
    size = sum(p.numel() for p in model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    tokens = torch.randint(8192, (1, 33))

    def step() -> None:
        optimizer.zero_grad()
        logits = model(tokens[:, :-1])[0]
        cross_entropy = F.cross_entropy(logits, tokens[0, 1:])
        normalisation = logits.logsumexp(dim=-1).square().mean()
        (cross_entropy + 1e-3 * normalisation).backward()
        optimizer.step()

    for _ in range(2):
        step()
    before = peak()
    instruments: list[Instrument] = light()
    if case == "stiffness":
        instruments = [Stiffness(max_basis=MAX_BASIS, max_products=12, certified=True)]
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        with Probe(model, Path(folder) / "run", instruments=instruments, schedule=at(0)):
            step()
        seconds = time.perf_counter() - begun
    buffers = (peak() - before) / (4 * size)
    print(
        f"{case:10s} {size / 1e6:.0f} million parameters, {buffers:.2f} buffers beyond the step's "
        f"own peak (limit {CASES[case]}), {seconds:.0f} s",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--case", choices=list(CASES))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.case:
        measure(arguments.case)
        return
    for case in CASES:
        subprocess.run([sys.executable, __file__, "--case", case], check=True)


if __name__ == "__main__":
    main()
