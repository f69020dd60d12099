"""Trains with and without a probe, and writes what differs in the end, as a JSON list a process.

torchrun --nproc-per-node=2 replica_observed_process.py FOLDER
"""

import json
import sys
from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from gradpath.probes import Probe
from tests.probes.final_state import differences, state_of
from tests.probes.loops import Trained, seeded

STEPS = 200


def distributed_loop(steps: int) -> Trained:
    """Shares a model with buffers, dropout and hooks of every kind among the processes."""
    seeded()
    first, activation, last = nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)
    net = nn.Sequential(first, nn.BatchNorm1d(8), activation, nn.Dropout(0.1), last)
    calls: list[str] = []

    # DistributedDataParallel refuses other annotations; PyTorch's types do not know this one.
    def averaged(
        _: object,
        bucket: distributed.GradBucket,  # type: ignore[name-defined]
    ) -> torch.futures.Future[Tensor]:
        calls.append("communication")
        mean = bucket.buffer().div_(distributed.get_world_size())
        work = distributed.all_reduce(mean, async_op=True)
        return work.get_future().then(lambda done: done.value()[0])

    model = DistributedDataParallel(net)
    model.register_comm_hook(None, averaged)
    model.register_forward_hook(lambda *_: calls.append("forward"))
    activation.register_full_backward_hook(lambda *_: calls.append("module"))
    first.weight.register_hook(lambda _: calls.append("weight"))
    last.bias.register_post_accumulate_grad_hook(lambda _: calls.append("accumulated"))
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    optimizer.register_step_post_hook(lambda *_: calls.append("step"))
    points = torch.Generator().manual_seed(distributed.get_rank())
    seen = []
    for _ in range(steps):
        x = torch.rand(16, 1, generator=points)
        optimizer.zero_grad()
        u = model(x)
        data = (u - torch.sin(x)).square().mean()
        size = u.square().mean()
        loss = data + 0.1 * size
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    return Trained({"net": net}, [optimizer], calls, seen=[*seen, points.get_state().tolist()])


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    distributed_loop(2)  # what the first training of a process sets up is not ours
    without = state_of(distributed_loop(STEPS))
    with Probe(None, folder / "run", instruments="full", strict=True):
        trained = distributed_loop(STEPS)
    found = differences(without, state_of(trained))
    assert len(without) > 50
    assert len(trained.calls) >= 6 * STEPS
    (folder / f"differences.{rank}.json").write_text(json.dumps(found))
    distributed.barrier()  # see examples/data_parallel.py
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
