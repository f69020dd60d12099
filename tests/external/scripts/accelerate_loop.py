"""A loop with Accelerate."""

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
loader = DataLoader(TensorDataset(torch.randn(80, 4), torch.randn(80, 1)), batch_size=8)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

for _ in range(4):
    for x, y in loader:
        with accelerator.accumulate(model):
            prediction = model(x)
            mse = nn.functional.mse_loss(prediction, y)
            size = prediction.square().mean()
            loss = mse + 0.1 * size
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
torch.save(accelerator.unwrap_model(model).state_dict(), "state.pt")
