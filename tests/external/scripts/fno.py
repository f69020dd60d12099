"""A physics-informed Fourier neural operator with complex weights, for Burgers' equation."""

import torch
from torch import nn

torch.manual_seed(0)


class SpectralConv1d(nn.Module):
    def __init__(self, width, modes):
        super().__init__()
        self.modes = modes
        self.weights = nn.Parameter(torch.randn(width, width, modes, dtype=torch.cfloat) / width**2)

    def forward(self, x):
        x_ft = torch.fft.rfft(x)
        out_ft = torch.zeros_like(x_ft)
        out_ft[:, :, : self.modes] = torch.einsum(
            "bix,iox->box", x_ft[:, :, : self.modes], self.weights
        )
        return torch.fft.irfft(out_ft, n=x.size(-1))


class FNO1d(nn.Module):
    def __init__(self, width=8, modes=4):
        super().__init__()
        self.lift = nn.Conv1d(1, width, 1)
        self.spectral = SpectralConv1d(width, modes)
        self.skip = nn.Conv1d(width, width, 1)
        self.project = nn.Conv1d(width, 1, 1)

    def forward(self, x):
        x = self.lift(x)
        x = torch.nn.functional.gelu(self.spectral(x) + self.skip(x))
        return self.project(x)


model = FNO1d()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
grid = torch.linspace(0, 1, 33)[:-1]
k = 2 * torch.pi * torch.fft.rfftfreq(32, 1 / 32) * 1j

for _ in range(30):
    amplitude = torch.rand(8, 1, 1)
    u0 = amplitude * torch.sin(2 * torch.pi * grid)
    u = model(u0)
    u_x = torch.fft.irfft(k * torch.fft.rfft(u), n=32)
    data_loss = torch.mean((u - 0.9 * u0) ** 2)
    pde_loss = torch.mean((u - u0 + 0.1 * u * u_x) ** 2)
    loss = data_loss + 0.1 * pde_loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
torch.save(model.state_dict(), "state.pt")
