"""`normscope check --data`: the project's data sets, in the batches that its own training sees."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from normscope.commands.check import CheckOptions, read_settings, run_check
from normscope.errors import InputError
from normscope.user_models.loading import load_batches

MODULE = """
from normscope.models.resnet import SmallResNet

def digits():
    return SmallResNet(widths=(4, 8, 8), blocks_per_stage=1, in_channels=1)

def colour():
    return SmallResNet(widths=(4, 8, 8), blocks_per_stage=1)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "small_nets.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_the_embedded_digits(here: Path, capsys):
    assert run_check(CheckOptions("small_nets:digits", data="digits", fail_on="warning")) == 0
    assert "a few batches" not in capsys.readouterr().out  # rules that need them had them
    with pytest.raises(InputError, match="eval mode"):
        run_check(CheckOptions("small_nets:colour", data="digits"))


def test_batches_are_those_of_a_training():
    batches = list(load_batches("digits", 100))
    assert [len(x) for x, _ in batches[:-1]] == [100] * (len(batches) - 1)
    images = torch.cat([x for x, _ in batches])
    assert images.shape[1:] == (1, 8, 8)
    assert float(images.mean().abs()) < 0.2  # normalized, and padded at the edges
    assert 0.8 < float(images.std()) < 1.1
    labels = torch.cat([y for _, y in batches])
    assert len(labels.unique()) == 10
    assert not torch.equal(labels, labels.sort().values)
    assert len(next(iter(load_batches("digits")))[0]) == 128


def test_cifar10_in_its_folder(here: Path, cifar10_directory: Path):
    given = CheckOptions(
        "small_nets:colour", data="cifar10", data_dir=cifar10_directory, batch_size=32
    )
    assert run_check(given) == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"data": "cifar"},
            r"'cifar' is no data: give a data set \(digits, cifar10, images, .*\), module:name, or",
        ),
        ({"data": "cifar10", "data_dir": Path("nowhere")}, "nowhere"),
        (
            {"data": "small_nets:digits", "data_dir": Path()},
            "--data-dir goes with --data digits, cifar10, images",
        ),
        ({"data_dir": Path()}, "name it with --data"),
    ],
)
def test_bad_input(here: Path, given, message):
    with pytest.raises(InputError, match=message):
        run_check(CheckOptions("small_nets:digits", **given))


def test_a_folder_in_the_settings_is_beside_them(here: Path):
    text = '[tool.normscope.check]\ndata = "cifar10"\ndata-dir = "images"\n'
    (here / "pyproject.toml").write_text(text, encoding="utf-8")
    (here / "deeper").mkdir()
    assert read_settings(here / "deeper") == {"data": "cifar10", "data_dir": here / "images"}
