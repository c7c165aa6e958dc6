from pathlib import Path

import numpy as np
import pytest
import torch

from normscope.data import sources
from normscope.data.device_batches import TextBatches
from normscope.data.layouts.text import CONTEXT, TEST_EVERY, read_path, windows
from normscope.errors import InputError


def batches(data, size: int = 4) -> TextBatches:
    return TextBatches(data, size, torch.device("cpu"), crop_padding=0, horizontal_flip=False)


def test_targets_are_the_next_bytes():
    text = bytes(range(256)) * 2
    inputs, targets = windows(text)
    assert inputs.shape == (3, CONTEXT, 1, 1)
    joined = inputs.reshape(-1)
    assert bytes(joined) == text[: 3 * CONTEXT]
    assert bytes(targets.reshape(-1).astype(np.uint8)) == text[1 : 3 * CONTEXT + 1]


def test_embedded_text_is_split_by_topic():
    from pydoc_data.topics import topics

    data = sources.load("text")
    test = bytes(data.test_images.reshape(-1))
    train = bytes(data.train_images.reshape(-1))
    held_out = [topics[name].encode() for name in sorted(topics)][TEST_EVERY - 1 :: TEST_EVERY]
    assert test.startswith(held_out[0][:1000])
    longest = max(held_out, key=len)
    middle = longest[len(longest) // 2 :][:300]
    assert middle in test
    assert middle not in train


def test_an_epoch_has_every_window_once():
    data = sources.load("text")
    shown = torch.cat([tokens for tokens, _ in batches(data, 100).train(seed=1, epoch=1)])
    assert shown.dtype == torch.int64
    expected = np.sort(data.train_images.reshape(len(shown), -1).view(f"S{CONTEXT}"), axis=0)
    got = np.sort(shown.numpy().astype(np.uint8).view(f"S{CONTEXT}"), axis=0)
    assert (expected == got).all()


def test_inputs_and_targets_stay_together():
    data = sources.load("text")
    for tokens, targets in batches(data, 64).train(seed=0, epoch=2):
        assert torch.equal(tokens[:, 1:], targets[:, :-1])


def test_a_few_files_give_the_last_eighth_of_each(tmp_path: Path):
    for name in ("b.txt", "a.md"):
        (tmp_path / name).write_bytes(name[:1].encode() * 7000 + b"t" * 1000)
    (tmp_path / "image.bin").write_bytes(b"\xff\xfe\x00")
    (tmp_path / ".hidden").write_bytes(b"h" * 9000)
    splits = read_path(tmp_path)
    assert set(bytes(splits.test_images.reshape(-1))) == set(b"t\n")
    assert set(bytes(splits.train_images.reshape(-1))) == set(b"ab\n")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xff\xfe", "holds no text in UTF-8"),
        (b"short", "holds too little text"),
        (b"", "no text"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, content: bytes, says: str):
    (tmp_path / "file.txt").write_bytes(content)
    with pytest.raises(InputError, match=says):
        sources.load("text", data_dir=tmp_path)


def test_a_path_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(InputError, match="nowhere does not exist"):
        sources.load("text", data_dir=tmp_path / "nowhere")


def test_text_has_no_classes_to_choose():
    with pytest.raises(InputError, match="Classes can be chosen of images, not of text"):
        sources.load("text", classes=("a", "b"))
