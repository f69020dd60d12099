"""Gradients that four micro-batches accumulate."""

import torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
accumulation_steps = 4

for batch in range(80):
    x, y = torch.randn(8, 6), torch.randint(4, (8,))
    logits = model(x)
    ce = nn.functional.cross_entropy(logits, y)
    penalty = logits.pow(2).mean()
    loss = (ce + 0.1 * penalty) / accumulation_steps
    loss.backward()
    if (batch + 1) % accumulation_steps == 0:
        optimizer.step()
        optimizer.zero_grad()
torch.save(model.state_dict(), "state.pt")
