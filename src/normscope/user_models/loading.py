"""Read what a command line names: models, checkpoints and data files. No pickle is executed."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normscope.arguments import import_named
from normscope.errors import InputError, one_line
from normscope.user_models.checkpoint_files import CHECKPOINTS, load_checkpoint

if TYPE_CHECKING:
    from torch import nn

DATA_FILES = (".pt", ".pth", ".npy")


def make_model(text: str) -> nn.Module:
    """Return the model that module:factory names.

    Raises:
        InputError: if there is no such thing, it wants arguments, raises, or returns no module.
    """
    from torch import nn

    made = _call(text)
    if not isinstance(made, nn.Module):
        raise InputError(
            f"{text} must return a torch.nn.Module, and returned a {type(made).__name__}."
        )
    return made


def load_into(model: nn.Module, content: Any, path: Path) -> None:
    """Load what fits of a checkpoint; an InputError where shapes differ, or nothing fits at all."""
    from normscope.user_models.state_dicts import unwrap_state, without_prefixes

    state = without_prefixes(unwrap_state(content), model.state_dict())
    try:
        result = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = lines[min(1, len(lines) - 1)].strip()  # behind a heading, where there is one
        raise InputError(f"{path} does not fit the model: {reason}") from error
    if len(result.unexpected_keys) == len(state):
        raise InputError(
            f"{path} does not fit the model: none of its {len(state)} entries are the model's."
        )


def load_batches(text: str, batch_size: int | None = None, data_dir: Path | None = None) -> Any:
    """Return what --data names: training batches of a data set, the iterable that a function
    returns, or the batches of a file of inputs.

    Args:
        text: name of a data set, module:name, or a file.
        batch_size: samples in a batch of a data set (default: 128) or of a file (default: 64).
        data_dir: folder of the data set.

    Raises:
        InputError: if there is no such thing.
        StorageError: if the data set cannot be kept.
    """
    from normscope.data.sources import DATASETS

    if batch_size is not None and batch_size < 1:
        raise InputError(f"--batch-size must be at least 1, and is {batch_size}.")
    path = Path(text)
    if text in DATASETS:
        return _training_batches(text, 128 if batch_size is None else batch_size, data_dir)
    if data_dir is not None:
        raise InputError(f"--data-dir goes with --data {', '.join(DATASETS)}, not with {text}.")
    if path.suffix in DATA_FILES:
        return _split_file(path, 64 if batch_size is None else batch_size)
    if ":" not in text:
        sets, files = ", ".join(DATASETS), ", ".join(DATA_FILES)
        raise InputError(
            f"{text!r} is no data: give a data set ({sets}), module:name, or a file ({files})."
        )
    batches = _call(text)
    if batches is None:
        raise InputError(f"{text} returns None; expected batches (does the function return them?).")
    return batches


def _training_batches(name: str, batch_size: int, data_dir: Path | None) -> Any:
    """Return an epoch of training batches as `normscope compare` makes them."""
    import torch

    from normscope.data.device_batches import Batches
    from normscope.data.sources import load

    data = load(name, data_dir=data_dir)
    padding, flip = data.recipe.crop_padding, data.recipe.horizontal_flip
    batches = Batches(
        data, batch_size, torch.device("cpu"), crop_padding=padding, horizontal_flip=flip
    )
    return batches.train(seed=0, epoch=1)


def _split_file(path: Path, batch_size: int) -> Any:
    from normscope.user_models.tensor_files import read_array

    inputs = read_array(path) if path.suffix == ".npy" else load_tensor(path)
    if not inputs.ndim or not inputs.numel():
        raise InputError(f"{path} holds no samples: its shape is {tuple(inputs.shape)}.")
    return list(inputs.split(min(batch_size, len(inputs))))


def load_tensor(path: Path) -> Any:
    """Return the one tensor in a file; raise an InputError if it holds anything else."""
    import torch

    from normscope.user_models.tensor_files import is_dense, read_torch

    content = read_torch(path, "a tensor of inputs")
    if not isinstance(content, torch.Tensor):
        raise InputError(
            f"{path} must hold one tensor of inputs, and holds a {type(content).__name__}."
        )
    if not is_dense(content):
        raise InputError(f"{path} holds no dense tensor of real numbers.")
    return content


def load_side(text: str) -> Any:
    """Return what a checkpoint holds, or the model of a factory."""
    return load_checkpoint(Path(text)) if is_checkpoint(text) else make_model(text)


def is_checkpoint(text: str) -> bool:
    """Tell whether the text names a file or folder of weights and no module:factory."""
    path = Path(text)
    return path.suffix in CHECKPOINTS or (os.sep in text and ":" not in text) or path.exists()


def _call(text: str) -> Any:
    """Return the result of the function that module:name names; the object if it is none.

    Raises:
        InputError: one line, if any of that fails.
    """
    if ":" not in text:
        files = ", ".join(CHECKPOINTS)
        raise InputError(
            f"{text!r} names no function: write module:name, or give a file ({files})."
        )
    from torch import nn

    target = import_named(text, "The function")
    if not callable(target) or isinstance(target, nn.Module):
        return target
    try:
        inspect.signature(target).bind()
    except TypeError as error:
        raise InputError(f"{text} must be callable without arguments: {one_line(error)}") from error
    except ValueError:  # a builtin without a signature
        pass
    try:
        return target()
    except (Exception, SystemExit) as error:  # the user's code
        raise InputError(f"{text} raises {one_line(error)}") from error
