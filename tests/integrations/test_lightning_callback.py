import logging

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

pytest.importorskip("lightning", reason="lightning is not installed (normscope[lightning])")

import lightning.pytorch as pl

from normscope.errors import CheckError
from normscope.integrations.lightning import WatchNormalization
from normscope.records.recording import Recording

pytestmark = pytest.mark.filterwarnings("ignore")
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


def test_a_fit_is_recorded_and_the_same(tmp_path):
    plain = fit(tmp_path, [])
    callback = WatchNormalization(
        tmp_path / "r.sqlite", every=1, histograms_every=1, gradients_every=1
    )
    watched = fit(tmp_path, [callback])
    assert all(torch.equal(one, two) for one, two in zip(plain, watched, strict=True))
    recording = Recording.load(tmp_path / "r.sqlite")
    assert recording.complete
    assert recording.epochs == {1: 0, 2: 4}
    for statistic in (
        "batch_mean",
        "weight",
        "weight_gradient",
        "output_gradient_norm",
        "histogram",
    ):
        assert list(recording.query("net.1", statistic)[0]) == list(range(1, 9)), statistic
    assert recording.query("net.1", "training")[1].all()


def test_an_exception_closes_the_watcher(tmp_path):
    callback = WatchNormalization(tmp_path / "r.sqlite", every=1)
    with pytest.raises(KeyError):
        fit(tmp_path, [callback], fails=True)
    assert not callback.watcher.active
    assert list(Recording.load(tmp_path / "r.sqlite").query("net.1", "batch_mean")[0]) == [1, 2]


def test_a_fit_is_judged_as_it_goes(tmp_path):
    callback = WatchNormalization(check=True)
    fit(tmp_path, [callback])
    assert callback.watcher.findings == []
    callback = WatchNormalization(check=True)
    fit(tmp_path, [callback], pollutes=True)
    assert [(finding.code, finding.layer) for finding in callback.watcher.findings] == [
        ("NS802", "net.1")
    ]


def test_a_fault_ends_the_fit(tmp_path):
    callback = WatchNormalization(tmp_path / "r.sqlite", every=1, check="raise")
    with pytest.raises(CheckError, match="NS802"):
        fit(tmp_path, [callback], pollutes=True)
    assert not callback.watcher.active
    assert list(Recording.load(tmp_path / "r.sqlite").query("net.1", "num_batches_tracked")[0]) == [
        1,
        2,
    ]
