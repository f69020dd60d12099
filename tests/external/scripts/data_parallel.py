"""DistributedDataParallel: each of two processes has its own points."""

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

distributed.init_process_group("gloo")
rank = distributed.get_rank()
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
ddp = DistributedDataParallel(net)
optimizer = torch.optim.Adam(ddp.parameters(), lr=1e-3)
generator = torch.Generator().manual_seed(rank)

for _ in range(20):
    x = torch.rand(16, 1, generator=generator)
    fit = (ddp(x) - torch.sin(x)).pow(2).mean()
    decay = sum(p.pow(2).sum() for p in net.parameters())
    loss = fit + 1e-3 * decay
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
if rank == 0:
    torch.save(net.state_dict(), "state.pt")
distributed.barrier()  # see examples/data_parallel.py
distributed.destroy_process_group()
