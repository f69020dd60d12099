"""A physics-informed network with Lightning."""

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class PINN(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))

    def training_step(self, batch, batch_idx):
        (x,) = batch
        x.requires_grad_()
        u = self.net(x)
        u_x = torch.autograd.grad(u, x, torch.ones_like(u), create_graph=True)[0]
        loss_pde = (u_x - torch.cos(x)).pow(2).mean()
        loss_bc = self.net(torch.zeros(1, 1)).pow(2).mean()
        self.log("loss_pde", loss_pde)
        self.log("loss_bc", loss_bc)
        return loss_pde + 10 * loss_bc

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


L.seed_everything(0)
model = PINN()
points = DataLoader(TensorDataset(torch.rand(64, 1)), batch_size=16, shuffle=True)
trainer = L.Trainer(
    max_epochs=6,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    gradient_clip_val=1.0,
)
trainer.fit(model, points)
torch.save(model.state_dict(), "state.pt")
