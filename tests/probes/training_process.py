"""A training with a probe on it; each step that the probe reports as recorded is a line of output.

python training_process.py FOLDER
"""

import os
import sys

import torch

from gradpath.probes import Probe
from gradpath.probes.instruments import GradientHistograms
from gradpath.probes.instruments.base import Instrument
from gradpath.probes.schedules import every
from tests.probes.loops import boundary_of, network, points, residual_of, seeded

WATCHING: list[Instrument | str] = ["light", GradientHistograms()]


def main() -> None:
    torch.set_num_threads(1)
    seeded()
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    probe = Probe(net, sys.argv[1], schedule=every(1), instruments=WATCHING, strict=True)
    reported = None
    with probe:
        while True:
            optimizer.zero_grad()
            residual, boundary = residual_of(net, points()), boundary_of(net)
            (residual + 10.0 * boundary).backward()
            optimizer.step()
            if probe.last_recorded != reported:
                reported = probe.last_recorded
                os.write(1, f"{reported}\n".encode())


if __name__ == "__main__":
    main()
