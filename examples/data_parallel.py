"""Processes that train one network with DistributedDataParallel, and one run of them all.

Gradients and Hessian-vector products are averaged over the processes; the first one writes.

    torchrun --nproc-per-node 2 examples/data_parallel.py [FOLDER]
    gradpath watch FOLDER --once
"""

import sys

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from gradpath import Probe

STEPS = 200

distributed.init_process_group("gloo")
rank, processes = distributed.get_rank(), distributed.get_world_size()
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))
model = DistributedDataParallel(net)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

probe = Probe(model, sys.argv[1] if len(sys.argv) > 1 else "runs/data_parallel", seed=0).attach()

for _step in range(STEPS):
    x = torch.rand(128, 1).chunk(processes)[rank]  # the same on all, and a share for each
    u = model(x)
    data = (u - torch.sin(8 * x)).square().mean()
    size = u.square().mean()
    loss = data + 0.01 * size
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

probe.detach()
# A thread of gloo may still hold what the last backward pass has sent, and PyTorch aborts where it
# lets go while Python shuts down (pytorch/pytorch#190489). A barrier waits long enough, as a rule.
distributed.barrier()
distributed.destroy_process_group()
