"""What holds for every test: one thread, known seeds, examples that repeat."""

import random
import signal

import numpy as np
import pytest
import torch
from hypothesis import settings

# Sums over several threads depend on how many there are; with one, a result is the same everywhere.
torch.set_num_threads(1)

# Fixed examples by default, so that a change is judged on its own; new ones on request, with
# `pytest --hypothesis-profile=explore`. No deadline: the first call of a torch function is slow.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile("ci")


@pytest.fixture(autouse=True)
def seed() -> int:
    """Seeds every global generator before each test."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    return 0


# A shell that starts the tests in the background makes them, and all that they start, deaf to
# Ctrl-C, which some of them send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
