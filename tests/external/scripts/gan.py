"""A generative adversarial network: two models, two optimizers, three losses."""

import sys

import torch
from torch import nn

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 30
torch.manual_seed(0)
generator = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
discriminator = nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
optimizer_g = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
optimizer_d = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
criterion = nn.BCEWithLogitsLoss()
ones, zeros = torch.ones(32, 1), torch.zeros(32, 1)

for _ in range(STEPS):
    data = torch.randn(32, 2) * 0.5 + 1
    fake = generator(torch.randn(32, 4))

    optimizer_d.zero_grad()
    real_loss = criterion(discriminator(data), ones)
    fake_loss = criterion(discriminator(fake.detach()), zeros)
    d_loss = (real_loss + fake_loss) / 2
    d_loss.backward()
    optimizer_d.step()

    optimizer_g.zero_grad()
    g_loss = criterion(discriminator(fake), ones)
    g_loss.backward()
    optimizer_g.step()

torch.save([generator.state_dict(), discriminator.state_dict()], "state.pt")
