"""Mixed precision: autocast to bfloat16 on the CPU, and a GradScaler."""

import torch
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(4, 32), nn.GELU(), nn.Linear(32, 2))
optimizer = torch.optim.SGD(net.parameters(), lr=1e-2, momentum=0.9)
scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
x, targets = torch.randn(64, 4), torch.randn(64, 2)

for _ in range(30):
    optimizer.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = net(x)
    mse = nn.functional.mse_loss(output.float(), targets)
    sparsity = output.float().abs().mean()
    scaler.scale(mse + 0.25 * sparsity).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
torch.save(net.state_dict(), "state.pt")
