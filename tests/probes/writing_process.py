"""A process that writes a run until it is killed; each step that is committed is a line of output.

python writing_process.py FOLDER [first step]
"""

import os
import sys
from dataclasses import dataclass

from gradpath.probes import Cost, Event, Field, HistogramRecord, RunWriter, Scalar, ScalarTable
from gradpath.probes.records import Record

SCALARS, HISTOGRAMS, PACKED = 12, 30, 40


LAYERS = tuple(f"layer {k}" for k in range(PACKED))


@dataclass(frozen=True)
class Encoded:
    """Stands for a GradientHistogram, which would load PyTorch."""

    data: bytes

    def to_bytes(self) -> bytes:
        return self.data


def records(step: int) -> list[Record]:
    import numpy as np

    histogram = Encoded(bytes(range(256)))
    return [
        *(Scalar("loss", step + k, term=f"term {k}") for k in range(SCALARS)),
        *(HistogramRecord(histogram, term="a", layer=f"layer {k}") for k in range(HISTOGRAMS)),
        ScalarTable(("packed",), np.full((1, 1, PACKED), float(step)), layers=LAYERS),
        Field("u", np.full(100, float(step)), grid=np.arange(100.0)),
        Cost("everything", 0.001),
        Event("told", f"step {step}"),
    ]


def main() -> None:
    writer = RunWriter(sys.argv[1], resume=True, metadata={"seed": 0})
    step = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    while True:
        writer.record(step, records(step))
        os.write(1, f"{step}\n".encode())
        step += 1


if __name__ == "__main__":
    main()
