"""One network with two heads, a regression and a classification, that share their first layers.

python examples/two_tasks.py [FOLDER]
gradpath watch FOLDER --once
"""

import sys

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradpath import Probe

STEPS = 600


class TwoHeads(nn.Module):
    """A trunk, the height of a surface, and the quadrant in which a point lies."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.height = nn.Linear(64, 1)
        self.quadrant = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (n, 1) heights and (n, 4) logits."""
        features = self.trunk(x)
        return self.height(features), self.quadrant(features)


torch.manual_seed(0)
model = TwoHeads()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

probe = Probe(model, sys.argv[1] if len(sys.argv) > 1 else "runs/two_tasks", seed=0).attach()

for _step in range(STEPS):
    x = 2 * torch.rand(128, 2) - 1
    height, quadrant = model(x)
    regression = F.mse_loss(height, 100 * x.square().sum(dim=1, keepdim=True))
    classification = F.cross_entropy(quadrant, (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long())
    loss = regression + classification
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

probe.detach()
