"""Data and loaders that cannot be used end in one line, or are used as far as they can be."""

import os
import zipfile

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from normscope.commands.check import check, check_state_dict
from normscope.errors import InputError
from normscope.examining.examine import examine, examine_loader
from normscope.examining.state_and_loader import layers_of_state
from normscope.user_models.loading import load_batches, load_checkpoint, load_into


@pytest.mark.parametrize("content", [b"", b"not an array"])
def test_a_file_that_is_no_array(tmp_path, content):
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as an array"):
        load_batches(str(tmp_path / "x.npy"))


@pytest.mark.parametrize("array", [np.zeros(()), np.zeros((0, 3))])
def test_an_array_without_samples(tmp_path, array):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(InputError, match="holds no samples"):
        load_batches(str(tmp_path / "x.npy"))


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_size_below_one(tmp_path, size):
    np.save(tmp_path / "x.npy", np.zeros((4, 3), np.float32))
    with pytest.raises(InputError, match="batch-size must be at least 1"):
        load_batches(str(tmp_path / "x.npy"), size)


def test_a_load_error_of_one_line(tmp_path):
    class Strict(nn.Linear):
        def load_state_dict(self, *_, **__):
            raise RuntimeError("will not")

    with pytest.raises(InputError, match="does not fit the model: will not"):
        load_into(Strict(1, 1), {"weight": torch.ones(1, 1)}, tmp_path / "x.pt")


def model():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 5))


def test_a_loader_that_raises():
    def loader():
        yield torch.randn(8, 3)
        raise OSError("disk gone")

    with pytest.raises(InputError, match="loader raises after 1 batches: OSError: disk gone"):
        examine(model(), loader())


class Lazy(dict):
    def items(self):
        raise OSError("gone")


@pytest.mark.parametrize(
    "batch",
    [
        torch.empty(8, 3, device="meta"),
        (torch.ones(8, 3), torch.empty(8, device="meta")),
        torch.ones(8, 3).to_sparse(),
        torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(1, 3)], layout=torch.jagged),
        Lazy(x=1),
        [[[torch.ones(8, 3)]] * 2] * 3,
    ],
    ids=["meta", "meta targets", "sparse", "jagged", "raises", "three entries"],
)
def test_batches_that_cannot_be_read(batch):
    with pytest.raises(InputError, match=r"^Batch 1 [^\n]+$"):
        examine(model(), [torch.ones(8, 3), batch])


def test_inputs_that_require_gradients():
    batches = [torch.randn(8, 3, requires_grad=True) for _ in range(3)]
    assert examine(model(), batches).forward is not None


def test_targets_of_another_length():
    batches = [(torch.randn(8, 3), torch.arange(5)) for _ in range(3)]
    forward = examine(model(), batches).forward
    assert forward is not None
    assert not forward.has_targets


def test_targets_that_are_ragged():
    class Ragged:
        targets = ([1], [2, 3], [4])

        def __len__(self):
            return 3

        def __getitem__(self, index):
            return torch.zeros(3), self.targets[index]

    loader = examine_loader(DataLoader(Ragged(), batch_size=2)).loader
    assert loader is not None
    assert loader.samples == 3


@pytest.mark.parametrize("suffix", [".pt", ".npy", ".safetensors"])
def test_what_is_no_regular_file_is_not_waited_for(tmp_path, suffix):
    os.mkfifo(pipe := tmp_path / f"pipe{suffix}")
    (endless := tmp_path / f"endless{suffix}").symlink_to("/dev/zero")
    (folder := tmp_path / f"folder{suffix}").mkdir()
    for path in (pipe, endless, folder):
        with pytest.raises(InputError, match="not a file|is a folder"):
            load_batches(str(path)) if suffix == ".npy" else load_checkpoint(path)


def test_an_archive_that_unpacks_to_much_more_than_it_is(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(30 << 24))
    with pytest.raises(InputError, match=r"has 0.5 MB and would unpack to 503 MB"):
        load_checkpoint(tmp_path / "x.pt")


def test_a_tensor_that_repeats_what_it_stores_counts_by_what_is_stored(tmp_path):
    for size, fits in ((1000, True), (10**9, False)):
        path = tmp_path / f"{size}.pt"
        torch.save({"bn.running_var": torch.ones(1).expand(size)}, path)
        if fits:
            assert layers_of_state(load_checkpoint(path))[0].features == 0
            continue
        with pytest.raises(InputError, match="no dense values"):
            layers_of_state(load_checkpoint(path))


@pytest.mark.parametrize("count", [float("nan"), float("inf"), 1 + 2j])
def test_a_counter_that_cannot_count(count):
    layer = nn.BatchNorm1d(3)
    layer.num_batches_tracked = torch.tensor(count)
    with pytest.raises(InputError, match=r"holds .*(no count|no dense values)"):
        check(layer)
    with pytest.raises(InputError, match=r"holds .*(no count|no dense values)"):
        check_state_dict(layer.state_dict())
