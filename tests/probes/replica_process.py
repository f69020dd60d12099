"""Trains with one process or several, a share of each batch a process, and a probe on it.

WAY is attach or backward:

python replica_process.py FOLDER WAY        (alone, or under torchrun)
"""

import sys

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from gradpath.probes import Probe
from gradpath.probes.schedules import every

STEPS = 5


def main(folder: str, way: str) -> None:
    torch.set_num_threads(1)
    is_distributed = torch.distributed.is_torchelastic_launched()
    if is_distributed:
        distributed.init_process_group("gloo")
    rank = distributed.get_rank() if is_distributed else 0
    world = distributed.get_world_size() if is_distributed else 1
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    model = DistributedDataParallel(net) if is_distributed else net
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    points = torch.Generator().manual_seed(1)
    probe = Probe(model, folder, instruments="full", schedule=every(2), strict=True)
    if way == "attach":
        probe.attach()
    for _ in range(STEPS):
        x = torch.rand(32, 1, generator=points, dtype=torch.float64).chunk(world)[rank]
        optimizer.zero_grad()
        u = model(x)
        data = (u - torch.sin(x)).square().mean()
        size = u.square().mean()
        if way == "attach":
            (data + 0.1 * size).backward()
        else:
            probe.backward({"data": data, "size": size}, {"size": 0.1})
        optimizer.step()
    probe.detach()
    torch.save([p.detach() for p in net.parameters()], f"{folder}.{rank}.pt")
    if is_distributed:
        distributed.barrier()  # see examples/data_parallel.py
        distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
