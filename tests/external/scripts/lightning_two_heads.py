"""A classifier with two heads, with Lightning."""

import lightning as L
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


class TwoHeads(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.1))
        self.shape_head = nn.Linear(16, 3)
        self.colour_head = nn.Linear(16, 5)

    def training_step(self, batch, batch_idx):
        x, shape, colour = batch
        features = self.trunk(x)
        losses = {
            "shape": F.cross_entropy(self.shape_head(features), shape),
            "colour": F.cross_entropy(self.colour_head(features), colour),
        }
        total = losses["shape"] + 0.5 * losses["colour"]
        self.log("train_loss", total)
        return {"loss": total, **{k: v.detach() for k, v in losses.items()}}

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9)]


L.seed_everything(0)
data = TensorDataset(torch.randn(96, 8), torch.randint(3, (96,)), torch.randint(5, (96,)))
model = TwoHeads()
trainer = L.Trainer(
    max_epochs=4,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
)
trainer.fit(model, DataLoader(data, batch_size=16, shuffle=True))
torch.save(model.state_dict(), "state.pt")
