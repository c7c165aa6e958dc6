"""Checkpoints as people have them: a planted fault is found, or the true reason is said."""

import argparse
import collections
import io
import json
import pathlib
import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from normscope import check_state_dict
from normscope.commands.check import CheckOptions, run_check
from normscope.commands.diff import DiffOptions, run_diff
from normscope.errors import InputError
from normscope.user_models.checkpoint_files import load_checkpoint
from normscope.user_models.loading import load_into


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(4), nn.LayerNorm(4)
        )
        self(torch.randn(2, 3, 5, 5))


def sick(model=None):
    model = Net() if model is None else model
    state = model.state_dict()
    next(v for k, v in state.items() if k.endswith("running_var"))[1] = -1.0
    return state


def renamed(prefix, state=None):
    return {f"{prefix}{name}": value for name, value in (state or sick()).items()}


def cast(dtype):
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in sick().items()}


def trained():
    """What a training script keeps beside the weights."""
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 3, 5, 5)).sum().backward()
    optimizer.step()
    return {
        "epoch": 3, "optimizer": optimizer.state_dict(), "best": np.float64(0.5),
        "args": argparse.Namespace(lr=0.1, out=pathlib.Path("x")), "global_step": torch.tensor(7),
        "counts": collections.defaultdict(list, a=[1]), "names": np.array(["a", "b"]),
        "callbacks": {"best": {"score": torch.ones(())}}, "best_loss": torch.ones(1),
    }  # fmt: skip


CONTENTS = {
    "state_dict": sick,
    "half": lambda: cast(torch.float16),
    "bfloat16": lambda: cast(torch.bfloat16),
    "float8": lambda: cast(torch.float8_e4m3fn),
    **{
        prefix: lambda prefix=prefix: renamed(prefix)
        for prefix in ("module.", "_orig_mod.", "module._orig_mod.", "model.", "net.backbone.")
    },
    "fsdp": lambda: renamed("_fsdp_wrapped_module.0._checkpoint_wrapped_module."),
    "averaged": lambda: AveragedModel(Net()).state_dict() | renamed("module."),
    **{
        entry: lambda entry=entry: trained() | {entry: sick()}
        for entry in (
            "state_dict", "model", "model_ema", "ema", "ema_model", "ema_state_dict", "module",
            "network_weights", "params_ema", "student", "generator", "weights", "whatever",
        )
    },
    "an average beside": lambda: trained() | {
        "state_dict": Net().state_dict(), "state_dict_ema": sick()
    },
    "two networks": lambda: {"generator": Net().state_dict(), "discriminator": sick()},
    "nested": lambda: {"state": {"model": {"state_dict": sick()}}, **trained()},
}  # fmt: skip


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_a_fault_is_found_wherever_it_is(tmp_path, capsys, content):
    torch.save(content(), tmp_path / "x.pt")
    assert run_check(CheckOptions(str(tmp_path / "x.pt"))) == 1
    assert "NS102" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["x.pth", "x.pth.tar", "x.ckpt", "x.bin", "odd.name", "none"])
def test_a_file_is_read_whatever_it_is_called(tmp_path, name):
    torch.save(trained() | {"model": sick()}, tmp_path / name)
    assert run_check(CheckOptions(str(tmp_path / name))) == 1


def test_the_old_format_of_torch_save(tmp_path):
    torch.save(trained() | {"model": sick()}, tmp_path / "x.pt",
               _use_new_zipfile_serialization=False)  # fmt: skip
    assert "NS102" in check_state_dict(load_checkpoint(tmp_path / "x.pt")).codes


def shards(folder, kind, state=None):
    """Write a state_dict as two files and an index."""
    state = sick() if state is None else state
    names = [f"model-{number}-of-2.{kind}" for number in (1, 2)]
    places = {key: names[number % 2] for number, key in enumerate(state)}
    for name in names:
        part = {key: value.clone() for key, value in state.items() if places[key] == name}
        (save_file if kind == "safetensors" else torch.save)(part, folder / name)
    stem = "model.safetensors" if kind == "safetensors" else "pytorch_model.bin"
    index = folder / f"{stem}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("given", ["index", "folder"])
def test_shards(tmp_path, kind, given):
    index = shards(tmp_path, kind)
    path = index if given == "index" else tmp_path
    assert run_check(CheckOptions(str(path))) == 1
    next(tmp_path.glob("*-2-of-2*")).unlink()
    with pytest.raises(InputError, match="1 are not there"):
        load_checkpoint(path)


@pytest.mark.parametrize("outside", ["../x.bin", "/etc/passwd", "a/b.bin", "..\\x", 3])
def test_an_index_reads_nothing_but_its_own_folder(tmp_path, outside):
    index = shards(tmp_path, "bin")
    index.write_text(json.dumps({"weight_map": {"a": outside}}))
    with pytest.raises(InputError, match="is not beside it"):
        load_checkpoint(index)


def test_single_files_in_a_folder(tmp_path):
    save_file(sick(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    assert run_check(CheckOptions(str(tmp_path))) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16,
                                   torch.float8_e4m3fn, torch.float8_e5m2])  # fmt: skip
def test_safetensors(tmp_path, dtype):
    save_file(cast(dtype), tmp_path / "x.safetensors")
    assert run_check(CheckOptions(str(tmp_path / "x.safetensors"))) == 1


def test_arrays_of_numpy(tmp_path):
    np.savez(tmp_path / "x.npz", **{k: v.numpy() for k, v in sick().items()})
    assert run_check(CheckOptions(str(tmp_path / "x.npz"))) == 1


def archive(**files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        for name, content in files.items():
            made.writestr(name.replace("__", "/"), content)
    return buffer.getvalue()


REFUSED = {
    "x.gguf": (b"GGUF\3\0\0\0", "GGUF.*converted from"),
    "x.onnx": (b"\x08\x07\x12\x07pytorch", "ONNX.*exported from"),
    "x.h5": (b"\x89HDF\r\n\x1a\n", "HDF5.*Convert"),
    "x.msgpack": (b"\x85\xa6params", "Flax"),
    "x.keras": (archive(**{"config.json": "{}", "model.weights.h5": ""}), "Keras"),
    "x.pt2": (archive(**{"x__archive_format": "pt2"}), "exported program"),
    "lfs.pt": (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    "lfs.safetensors": (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    "page.pt": (b"<!DOCTYPE html>", "HTML.*Download"),
    "x.zip": (archive(**{"a.txt": ""}), "not one of torch.save"),
    "x.pt.gz": (b"\x1f\x8b\x08", "Unpack"),
    "empty.pt": (b"", "is empty"),
    "config.json": (b"{}", "JSON"),
    "noise.bin": (b"\xf1\xf2\xf3", "no checkpoint that is known"),
    "short.safetensors": (b"\x90\0\0\0\0\0\0\0{\"a\":", "cannot be read as safetensors"),
    "objects.npz": (archive(**{"a.npy": b"no array"}), "cannot be read as arrays"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_something_else_is_called_by_its_name(tmp_path, name):
    content, words = REFUSED[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words) as refused:
        run_check(CheckOptions(str(tmp_path / name)))
    assert "\n" not in str(refused.value)


def test_code_is_refused_by_the_name_of_its_class(tmp_path):
    torch.save(Net(), tmp_path / "module.pt")
    with pytest.raises(InputError, match=r"Python objects \([\w.]*Net\).*load it in Python"):
        load_checkpoint(tmp_path / "module.pt")
    torch.jit.script(nn.Sequential(nn.BatchNorm2d(3))).save(str(tmp_path / "script.pt"))
    with pytest.raises(InputError, match="TorchScript"):
        load_checkpoint(tmp_path / "script.pt")


def test_what_a_reader_warns_of_is_not_said(tmp_path, recwarn):
    (tmp_path / "x.pt").write_bytes(pickle.dumps({"a": Net()}, protocol=4))
    with pytest.raises(InputError, match="Python objects"):
        load_checkpoint(tmp_path / "x.pt")
    assert not recwarn.list


def test_very_many_layers_are_refused():
    state = {f"bn.{i}.running_var": torch.ones(1) for i in range(20_001)}
    with pytest.raises(InputError, match=r"holds 20,001 normalization layers; at most 20,000"):
        check_state_dict(state)


def test_a_checkpoint_that_was_cut_short(tmp_path):
    torch.save(sick(), tmp_path / "x.pt")
    whole = (tmp_path / "x.pt").read_bytes()
    (tmp_path / "x.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="it is cut short or damaged"):
        load_checkpoint(tmp_path / "x.pt")
    torch.save(sick(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "old.pt").read_bytes()
    for length in (2, 60, len(whole) // 2):
        (tmp_path / "old.pt").write_bytes(whole[:length])
        with pytest.raises(InputError):
            load_checkpoint(tmp_path / "old.pt")


def test_folders_without_one_checkpoint(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        load_checkpoint(tmp_path)
    (tmp_path / ".metadata").write_bytes(b"\x80\x04")
    with pytest.raises(InputError, match="dcp_to_torch"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "model.", "module.model.", "net._orig_mod."])
def test_any_prefix_is_taken_off_for_a_model_and_for_diff(tmp_path, prefix):
    model = Net()
    state = renamed(prefix, model.state_dict()) | {"loss.weight": torch.ones(3)}
    other = Net()
    load_into(other, {"state_dict": state}, tmp_path / "x.pt")
    assert torch.equal(other[0].weight, model[0].weight)
    torch.save(state, tmp_path / "a.pt")
    torch.save(model.state_dict(), tmp_path / "b.pt")
    for sides in (("a.pt", "b.pt"), ("b.pt", "a.pt")):
        assert run_diff(DiffOptions(*(str(tmp_path / side) for side in sides))) == 0


def test_a_second_network_is_named():
    report = check_state_dict({"generator": Net().state_dict(), "discriminator": sick()})
    assert report.layers == 4
    assert [f.layer for f in report if f.code == "NS102"] == ["discriminator.1"]


@pytest.mark.parametrize("text", ['{"weight_map": {"a": "x.index.json"}}', "[" * 100_000, "5"])
def test_an_index_that_names_itself_or_is_none(tmp_path, text):
    (tmp_path / "x.index.json").write_text(text)
    with pytest.raises(InputError, match="or an index|no index of a sharded checkpoint"):
        load_checkpoint(tmp_path / "x.index.json")
