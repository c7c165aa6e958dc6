"""Read checkpoints as people have them; of others say what they are. Nothing in them is executed.

A file is known by its first bytes and what its archive holds, not by its name.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

from normscope.arguments import given_path
from normscope.errors import InputError, one_line
from normscope.records.regular_files import check_regular, read_json

CHECKPOINTS = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".tar", ".npz", ".index.json")
FOLDER_FILES = (
    "model.safetensors.index.json", "diffusion_pytorch_model.safetensors.index.json",
    "pytorch_model.bin.index.json", "model.safetensors", "diffusion_pytorch_model.safetensors",
    "adapter_model.safetensors", "pytorch_model.bin", "diffusion_pytorch_model.bin",
)  # fmt: skip
"""What libraries write into a model's folder, the first that is there is read."""

SAVE = "torch.save(model.state_dict(), 'weights.pt')"
OTHER_FORMATS = (
    (
        b"GGUF",
        "a GGUF file, whose weights are quantized and renamed",
        "Give the .safetensors files that it was converted from",
    ),
    (b"version https://git-lfs", "a pointer of git-lfs, and not the file", "Run git lfs pull"),
    (b"\x89HDF", "an HDF5 file (Keras)", "Convert it to PyTorch, and " + SAVE),
    (b"\x08", "an ONNX or TensorFlow file", "Give the PyTorch weights that it was exported from"),
    (b"<", "a page of HTML or XML, and no weights", "Download it again"),
    (b"\x1f\x8b", "compressed with gzip", "Unpack it first"),
    (b"7z\xbc\xaf", "compressed with 7-Zip", "Unpack it first"),
    (b"BZh", "compressed with bzip2", "Unpack it first"),
    (b"{", "text in JSON", "Give the weights, or the index of a sharded checkpoint (.index.json)"),
)
"""(first bytes, what a file is then, what to do)"""

ZIP_FORMATS = (
    (r"(^|/)constants\.pkl$", "a TorchScript program, which holds code", "Save the state_dict of "
     "the module that it was made from"),
    (r"(^|/)(archive_format|serialized_exported_program.json|models/.*\.json)$",
     "an exported program", "Save the state_dict of the module that it was made from"),
    (r"(^|/)(model\.weights\.h5|saved_model\.pb)$", "a Keras model",
     "Convert it to PyTorch, and " + SAVE),
)  # fmt: skip


def load_checkpoint(path: Path) -> Any:
    """Return what a checkpoint holds: a state_dict, or a mapping in which there are some.

    Read are files of torch.save, of which only plain data and tensors are admitted, safetensors,
    .npz, a sharded checkpoint by its index (.index.json), and a folder with one of these.

    Raises:
        InputError: if there is nothing, or it is something else: what, and what to do.
    """
    from normscope.user_models.tensor_files import read_safetensors, read_torch

    if path.is_dir():
        return load_checkpoint(_in_folder(path))
    if not given_path(path).exists():
        raise InputError(f"There is no checkpoint at {path}.")
    head = _head(path)
    if path.name.endswith(".index.json"):
        return _load_shards(path)
    if path.suffix == ".safetensors" and head[8:9] == b"{":
        return read_safetensors(path)
    if _is_zip(path):
        return _load_archive(path)
    is_tar = head[257:262] == b"ustar"  # as torch.save wrote before version 0.1.2
    if not head.startswith(b"\x80") and not is_tar:
        raise InputError(_other_format(path, head))
    return read_torch(path, "a checkpoint")


def _is_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # of an archive in several parts, say
        return False


def _head(path: Path) -> bytes:
    """Return the first bytes of a regular file."""
    try:
        check_regular(path)
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise InputError(f"{path} cannot be read as a checkpoint ({one_line(error)}).") from error
    if not head:
        raise InputError(f"{path} cannot be read as a checkpoint: it is empty.")
    return head


def _in_folder(folder: Path) -> Path:
    found = next((folder / name for name in FOLDER_FILES if (folder / name).is_file()), None)
    if found is not None:
        return found
    if (folder / ".metadata").is_file():
        raise InputError(
            f"{folder} is a distributed checkpoint, whose metadata would have to be executed to be "
            "read. Convert it: python -m torch.distributed.checkpoint.format_utils dcp_to_torch "
            f"{folder} weights.pt"
        )
    if (folder / "saved_model.pb").is_file():
        raise InputError(f"{folder} is a TensorFlow model. Convert it to PyTorch, and {SAVE}.")
    weights = sorted(each for each in folder.iterdir() if each.name.endswith(CHECKPOINTS))
    if len(weights) == 1:
        return weights[0]
    names = ", ".join(each.name for each in weights[:8]) or f"none of {', '.join(FOLDER_FILES)}"
    raise InputError(f"{folder} is a folder; give one of its files: {names}.")


def _load_shards(index: Path) -> dict[str, Any]:
    """Return the state_dict whose entries an index spreads over files beside it."""
    try:
        entries = read_json(index)["weight_map"]
        names = sorted(set(entries.values()))
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise InputError(
            f"{index} is no index of a sharded checkpoint ({one_line(error)})."
        ) from error
    outside = [n for n in names if not isinstance(n, str) or Path(n).name != n or "\\" in n]
    if outside := outside or [n for n in names if n.endswith(".index.json")]:
        raise InputError(
            f"{index} names a file that is not beside it, or an index: {outside[0]!r}."
        )
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise InputError(
            f"{index} names {len(names)} files, of which {len(missing)} are not there: "
            f"{', '.join(missing[:4])}."
        )
    state: dict[str, Any] = {}
    for name in names:
        state |= load_checkpoint(index.parent / name)
    if lacking := [name for name in entries if name not in state]:
        raise InputError(f"{index}: its files lack {len(lacking)} entries, such as {lacking[0]}.")
    return state


def _load_archive(path: Path) -> Any:
    """Return what a zip file holds: one of torch.save, or arrays of numpy."""
    from normscope.user_models.tensor_files import read_torch

    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # damaged bytes raise anything
        return read_torch(path, "a checkpoint")
    for pattern, what, remedy in ZIP_FORMATS:
        if any(re.search(pattern, name) for name in names):
            raise InputError(f"{path} is {what}. {remedy}.")
    if names and all(name.endswith(".npy") for name in names):
        return _load_arrays(path)
    if not any(name.endswith("data.pkl") for name in names):
        raise InputError(
            f"{path} is a zip file, but not one of torch.save. Unpack it, and give the weights."
        )
    return read_torch(path, "a checkpoint")


def _load_arrays(path: Path) -> dict[str, Any]:
    import numpy as np
    import torch

    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except Exception as error:  # damaged bytes raise anything
        raise InputError(f"{path} cannot be read as arrays: {one_line(error)}") from error


def _other_format(path: Path, head: bytes) -> str:
    for start, what, remedy in OTHER_FORMATS:
        if head.lstrip().startswith(start):
            return f"{path} is {what}. {remedy}."
    if path.suffix == ".msgpack":
        return f"{path} is a Flax checkpoint. Convert it to PyTorch, and {SAVE}."
    if path.suffix == ".safetensors":
        return f"{path} cannot be read as safetensors: it is cut short, or something else."
    if path.suffix in (".pt", ".pth", ".ckpt", ".bin") and head.startswith(b"PK\x03\x04"):
        return f"{path} cannot be read as a checkpoint: it is cut short or damaged."
    kinds = ", ".join(CHECKPOINTS)
    return f"{path} is no checkpoint that is known ({kinds}). {SAVE} writes one."
