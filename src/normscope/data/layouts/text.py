"""Text as bytes: windows of a fixed length, each with the byte that follows each of its bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from normscope.data.dataset import Splits
from normscope.errors import InputError

CONTEXT = 128
"""Bytes of a window."""

TEST_EVERY = 8
"""Every so many documents one is for testing; of a few, so many parts of each."""

LARGEST = 200_000_000
"""Bytes of text that are read at most."""

BYTES = tuple(chr(b) if 32 <= b < 127 else f"\\x{b:02x}" for b in range(256))
"""The classes: every byte, printable ones as themselves."""


def read_topics() -> Splits:
    """Read the help topics of Python's own documentation, 0.47 MB of English in every CPython.

    They differ between versions of Python. In alphabetical order, every eighth topic is for
    testing.
    """
    from pydoc_data.topics import topics

    return split_documents([topics[name].encode() for name in sorted(topics)])


def read_path(path: Path) -> Splits:
    """Read a file of text, or all files of a folder and the folders in it, in the order of their
    names.

    Of eight files and more, every eighth is for testing; of fewer, the last eighth of each.

    Raises:
        InputError: if there is no text in UTF-8, too little of it, or too much.
    """
    files = [path] if path.is_file() else _files(path)
    total = sum(file.stat().st_size for file in files)
    if total > LARGEST:
        raise InputError(
            f"{path} holds {total / 1e6:,.0f} MB; text is read up to {LARGEST / 1e6:,.0f} MB. "
            "Give a part of it."
        )
    documents = [text for file in files if (text := _text(file))]
    if not documents:
        raise InputError(f"{path} holds no text in UTF-8.")
    if len(documents) >= TEST_EVERY:
        return split_documents(documents, path)
    ends = [len(text) - len(text) // TEST_EVERY for text in documents]
    parts = zip(documents, ends, strict=True)
    halves = [(text[:end], text[end:]) for text, end in parts]
    return _splits([train for train, _ in halves], [test for _, test in halves], path)


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist. Expected: a file of text, or a folder of them.")
    found = sorted(folder.rglob("*"))
    parts = ((file, file.relative_to(folder).parts) for file in found if file.is_file())
    return [file for file, names in parts if not any(name.startswith(".") for name in names)]


def _text(file: Path) -> bytes | None:
    """Return the bytes of a file that is text in UTF-8, else None."""
    content = file.read_bytes()
    try:
        content.decode()
    except UnicodeDecodeError:
        return None
    return None if b"\0" in content else content


def split_documents(documents: Sequence[bytes], where: Path | str = "the text") -> Splits:
    """Return whole documents as training and test windows, every eighth for testing."""
    test = documents[TEST_EVERY - 1 :: TEST_EVERY]
    train = [text for index, text in enumerate(documents, 1) if index % TEST_EVERY]
    return _splits(train, test, where)


def _splits(train: Sequence[bytes], test: Sequence[bytes], where: Path | str) -> Splits:
    splits = [windows(b"\n\n".join(documents)) for documents in (train, test)]
    if not all(len(inputs) for inputs, _ in splits):
        raise InputError(
            f"{where} holds too little text: training and test text need more than {CONTEXT} bytes "
            "each."
        )
    (train_inputs, train_targets), (test_inputs, test_targets) = splits
    return Splits(BYTES, train_inputs, train_targets, test_inputs, test_targets)


def windows(text: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Cut a text into windows that follow one another; what is left at the end is dropped.

    Returns:
        the bytes of each window, uint8 [N, CONTEXT, 1, 1] (as an image of one pixel in width), and
        the byte after each of them, int64 [N, CONTEXT].
    """
    values = np.frombuffer(text, np.uint8)
    count = max(0, (len(values) - 1) // CONTEXT)
    used = count * CONTEXT
    inputs = values[:used].reshape(count, CONTEXT, 1, 1).copy()
    return inputs, values[1 : used + 1].reshape(count, CONTEXT).astype(np.int64)
