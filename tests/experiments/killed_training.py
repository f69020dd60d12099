"""Trains, and waits at a step to be killed.

python killed_training.py FOLDER STEPS WAIT_AT
"""

import sys
import time
from collections.abc import Mapping

import torch

from gradpath.experiments import problem, train
from gradpath.probes.instruments import GradientStatistics, Losses
from gradpath.probes.schedules import every


def wait(step: int, steps: int, losses: Mapping[str, float]) -> None:
    if step == int(sys.argv[3]):
        print("waiting", flush=True)
        time.sleep(60)


torch.set_num_threads(1)
train(
    problem("poisson"), "M2", sys.argv[1], steps=int(sys.argv[2]), hidden=(6, 6), progress=wait,
    compile=False, instruments=[Losses(every(10)), GradientStatistics(every(100))],
)  # fmt: skip
