from types import SimpleNamespace

import pytest
import torch

from normscope.errors import CheckError, NormscopeWarning
from normscope.records.recording import Recording

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def lightning():
    """What the tests use of it, imported by the worker that runs them."""
    pytest.importorskip("lightning", reason="lightning is not installed (normscope[lightning])")
    from lightning_fit import fit

    from normscope.integrations.lightning import WatchNormalization

    return SimpleNamespace(fit=fit, WatchNormalization=WatchNormalization)


def test_a_fit_is_recorded_and_the_same(tmp_path, lightning):
    plain = lightning.fit(tmp_path, [])
    callback = lightning.WatchNormalization(
        tmp_path / "r.sqlite", every=1, histograms_every=1, gradients_every=1
    )
    watched = lightning.fit(tmp_path, [callback])
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


def test_an_exception_closes_the_watcher(tmp_path, lightning):
    callback = lightning.WatchNormalization(tmp_path / "r.sqlite", every=1)
    with pytest.raises(KeyError):
        lightning.fit(tmp_path, [callback], fails=True)
    assert not callback.watcher.active
    assert list(Recording.load(tmp_path / "r.sqlite").query("net.1", "batch_mean")[0]) == [1, 2]


def test_a_fit_is_judged_as_it_goes(tmp_path, lightning):
    callback = lightning.WatchNormalization(check=True)
    lightning.fit(tmp_path, [callback])
    assert callback.watcher.findings == []
    callback = lightning.WatchNormalization(check=True)
    lightning.fit(tmp_path, [callback], pollutes=True)
    assert [(finding.code, finding.layer) for finding in callback.watcher.findings] == [
        ("NS802", "net.1")
    ]


def test_a_fault_ends_the_fit(tmp_path, lightning):
    callback = lightning.WatchNormalization(tmp_path / "r.sqlite", every=1, check="raise")
    with pytest.raises(CheckError, match="NS802"):
        lightning.fit(tmp_path, [callback], pollutes=True)
    assert not callback.watcher.active
    assert list(Recording.load(tmp_path / "r.sqlite").query("net.1", "num_batches_tracked")[0]) == [
        1,
        2,
    ]


def test_a_module_without_a_norm_trains_on_with_one_warning(lightning):
    callback = lightning.WatchNormalization()
    with pytest.warns(NormscopeWarning, match=r"the training goes on. Linear has no norm") as said:
        callback.on_train_start(SimpleNamespace(optimizers=[]), torch.nn.Linear(2, 2))
    callback.on_train_epoch_start(SimpleNamespace(current_epoch=0), None)
    callback.on_train_end(None, None)
    assert len(said) == 1


def test_a_second_fit_with_the_same_callback_has_a_file_of_its_own(tmp_path, lightning):
    callback = lightning.WatchNormalization(tmp_path / "r.sqlite", every=1)
    for _ in range(2):
        lightning.fit(tmp_path, [callback])
    first, second = (Recording.load(tmp_path / f"{name}.sqlite") for name in ("r", "r-2"))
    assert first.complete
    assert second.complete
    assert first.epochs == second.epochs
