"""A small fit of Lightning's, in a file of its own: Lightning takes seconds to import, and every
worker of the suite imports every file of tests.
"""

import logging

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Classifier(pl.LightningModule):
    """Calls a part of itself in its training step, as most Lightning modules do."""

    def __init__(self, fails=False, pollutes=False):
        super().__init__()
        self.pollutes = pollutes
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
        self.fails = fails

    def training_step(self, batch, index):
        if self.fails and index == 2:
            raise KeyError("in a training step")
        x, y = batch
        if self.pollutes:
            with torch.no_grad():
                self.net(x)
        return F.cross_entropy(self.net(x), y)

    def validation_step(self, batch, index):
        self.net(batch[0] * 1000)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(tmp_path, callbacks, fails=False, pollutes=False):
    torch.manual_seed(0)
    module = Classifier(fails, pollutes)
    data = TensorDataset(torch.randn(24, 4), torch.randint(0, 2, (24,)))
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, DataLoader(data, batch_size=6), DataLoader(data, batch_size=6))
    return list(module.state_dict().values())
