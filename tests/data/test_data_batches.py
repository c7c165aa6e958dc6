"""Batches against slow, per-image references: what is shown, how often, where it is cut, and what
depends on what.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from normscope.data.dataset import Dataset, Recipe
from normscope.data.device_batches import Batches, plan_epoch

CPU = torch.device("cpu")
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def make_dataset(
    count: int, height: int = 6, width: int = 5, channels: int = 3, seed: int = 0
) -> Dataset:
    """Random images without a zero pixel, each with its own label, so that an image is known by its
    label.
    """
    draw = np.random.default_rng(seed)
    images = draw.integers(1, 256, (count + 7, height, width, channels), dtype=np.uint8)
    labels = np.arange(count + 7)
    mean, std = MEAN[:channels], STD[:channels]
    names = tuple(map(str, labels))
    halves = (images[:count], labels[:count], images[count:], labels[count:])
    return Dataset("made", names, *halves, mean, std, "", "made", Recipe(1, (0.1,), 1, True))


def make_batches(
    dataset: Dataset, batch_size: int = 4, padding: int = 2, flip: bool = True, **options
) -> Batches:
    return Batches(dataset, batch_size, CPU, crop_padding=padding, horizontal_flip=flip, **options)


def epoch_of(batches: Batches, seed: int = 0, epoch: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = zip(*batches.train(seed, epoch), strict=True)
    return torch.cat(images), torch.cat(labels)


def asked_for(batches: Batches, seed: int = 0, epoch: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """The same as `epoch_of`, batch by batch as the training loop asks for them."""
    batches.begin(seed, epoch)
    parts = [
        batches.train_at(torch.tensor([index]), batches.train_size(index))
        for index in range(batches.train_batches)
    ]
    images, labels = zip(*parts, strict=True)
    return torch.cat(images), torch.cat(labels)


def normalized(image: np.ndarray, dataset: Dataset) -> np.ndarray:
    """The definition, in float64: uint8 [H, W, C] -> [C, H, W]."""
    return ((image / 255 - np.array(dataset.mean)) / np.array(dataset.std)).transpose(2, 0, 1)


def windows(image: np.ndarray, padding: int, flip: bool) -> np.ndarray:
    """Every crop that augmentation may make of an image [H, W, C], one after the other."""
    height, width, _ = image.shape
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    steps = range(2 * padding + 1)
    crops = [padded[top : top + height, left : left + width] for top in steps for left in steps]
    return np.stack(crops + [crop[:, ::-1] for crop in crops] if flip else crops)


@settings(deadline=None, max_examples=25)
@given(
    count=st.integers(1, 11),
    batch_size=st.integers(1, 12),
    padding=st.integers(0, 3),
    flip=st.booleans(),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 1000),
)
def test_an_epoch_is_the_plan_carried_out_image_by_image(
    count, batch_size, padding, flip, channels, seed, epoch
):
    dataset = make_dataset(count, channels=channels)
    batches = make_batches(dataset, batch_size, padding, flip)
    images, labels = epoch_of(batches, seed, epoch)
    assert sorted(labels.tolist()) == list(range(count)), "every image exactly once"

    plan = plan_epoch(count, seed, epoch, padding, flip)
    for shown, image in enumerate(images.numpy()):
        source = dataset.train_images[labels[shown]]
        choice = int(plan.tops[shown]) * (2 * padding + 1) + int(plan.lefts[shown])
        choice += int(plan.flips[shown]) * (2 * padding + 1) ** 2
        expected = normalized(windows(source, padding, flip)[choice], dataset)
        np.testing.assert_allclose(image, expected, rtol=1e-5, atol=1e-6)


def test_of_the_mean_image_is_taken_before_crops_are_padded_with_zeros():
    """He et al. 2016: zeros around what is left of an image, not around the image."""
    dataset = make_dataset(6)
    batches = make_batches(dataset, pixel_mean=True)
    mean = dataset.train_images.astype(np.float64).mean(0)
    plan = plan_epoch(6, seed=1, epoch=2, crop_padding=2, horizontal_flip=True)
    shown, _ = epoch_of(batches, 1, 2)
    height, width = mean.shape[:2]
    for place, image in enumerate(shown.permute(0, 2, 3, 1).numpy()):
        left_over = dataset.train_images[plan.order[place]] - mean
        padded = np.pad(left_over, ((2, 2), (2, 2), (0, 0)))
        top, left = int(plan.tops[place]), int(plan.lefts[place])
        window = padded[top : top + height, left : left + width]
        window = window[:, ::-1] if plan.flips[place] else window
        np.testing.assert_allclose(image, window / (255 * np.array(dataset.std)), atol=1e-5)
    assert torch.equal(asked_for(batches, 1, 2)[0], shown)
    tested = next(batches.test())[0].permute(0, 2, 3, 1).numpy()
    expected = (dataset.test_images[:4] - mean) / (255 * np.array(dataset.std))
    np.testing.assert_allclose(tested, expected, atol=1e-5)


def test_every_crop_is_a_window_of_the_zero_padded_image_whatever_the_plan_says():
    dataset = make_dataset(40)
    images, labels = epoch_of(make_batches(dataset, 16))
    for image, label in zip(images.numpy(), labels.tolist(), strict=True):
        possible = np.stack(
            [normalized(crop, dataset) for crop in windows(dataset.train_images[label], 2, True)]
        )
        assert np.abs(possible - image).max(axis=(1, 2, 3)).min() < 1e-5


def test_images_of_one_batch_have_offsets_and_flips_of_their_own():
    plan = plan_epoch(128, 0, 0, 4, True)
    assert len(set(zip(plan.tops.tolist(), plan.lefts.tolist(), strict=True))) > 50
    assert 30 < int(plan.flips.sum()) < 98


def test_offsets_and_flips_are_uniform_and_independent():
    count, sides = 81_000, 9
    plan = plan_epoch(count, 3, 1, 4, True)
    table = torch.zeros(2, sides, sides)
    table.index_put_((plan.flips.long(), plan.tops, plan.lefts), torch.ones(count), accumulate=True)
    expected = count / table.numel()
    chi_square = float(((table - expected) ** 2 / expected).sum())
    assert chi_square < 240  # 161 degrees of freedom: p = 5e-5, and the draw is fixed
    neighbours = np.corrcoef(plan.tops[:-1], plan.tops[1:])[0, 1]
    assert abs(neighbours) < 0.02


def test_statistics_agree_with_a_slow_reference_that_draws_for_itself():
    """The mean image over many epochs against the mean over all possible crops, which is its
    expectation.
    """
    dataset = make_dataset(1)
    batches = make_batches(dataset, 1, 1, True)
    epochs = 600
    shown = np.mean([epoch_of(batches, 0, epoch)[0][0].numpy() for epoch in range(epochs)], axis=0)
    possible = np.stack(
        [normalized(crop, dataset) for crop in windows(dataset.train_images[0], 1, True)]
    )
    standard_error = possible.std(axis=0) / np.sqrt(epochs)
    assert (np.abs(shown - possible.mean(axis=0)) < 5 * standard_error + 1e-5).all()


def test_the_same_seed_and_epoch_show_the_same_bits_whatever_came_before():
    dataset = make_dataset(30)
    first, fresh = make_batches(dataset), make_batches(dataset)
    for epoch in range(3):
        epoch_of(first, 5, epoch)
    torch.manual_seed(99)
    for ours, theirs in zip(epoch_of(first, 5, 3), epoch_of(fresh, 5, 3), strict=True):
        assert torch.equal(ours, theirs)


def test_epochs_and_seeds_differ_in_order_and_in_augmentation():
    plans = [
        plan_epoch(500, seed, epoch, 4, True) for seed, epoch in [(0, 0), (0, 1), (1, 0), (1, 1)]
    ]
    for index, plan in enumerate(plans):
        for other in plans[:index]:
            assert (plan.order == other.order).float().mean() < 0.05
            assert (plan.tops == other.tops).float().mean() < 0.25
            assert 0.4 < (plan.flips == other.flips).float().mean() < 0.6


def test_the_order_does_not_depend_on_the_augmentation():
    assert torch.equal(plan_epoch(100, 2, 3, 0, False).order, plan_epoch(100, 2, 3, 4, True).order)


def test_no_global_generator_moves():
    batches = make_batches(make_dataset(10))
    torch_state, numpy_state = torch.get_rng_state(), str(np.random.get_state())
    epoch_of(batches)
    list(batches.test())
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert str(np.random.get_state()) == numpy_state


def test_two_epochs_may_be_read_side_by_side():
    batches = make_batches(make_dataset(12))
    pairs = zip(batches.train(0, 0), batches.train(0, 1), strict=True)
    one, other = (
        torch.cat(images) for images in zip(*((a[0], b[0]) for a, b in pairs), strict=True)
    )
    assert torch.equal(one, epoch_of(batches, 0, 0)[0])
    assert torch.equal(other, epoch_of(batches, 0, 1)[0])


def test_without_augmentation_the_images_are_shown_as_they_are():
    dataset = make_dataset(9)
    images, labels = epoch_of(make_batches(dataset, 4, 0, False))
    for image, label in zip(images.numpy(), labels.tolist(), strict=True):
        np.testing.assert_allclose(
            image, normalized(dataset.train_images[label], dataset), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_batches_are_channels_last_and_of_the_dtype_that_was_asked_for(dtype):
    batches = make_batches(make_dataset(10), 4, dtype=dtype)
    sizes = []
    for images, labels in batches.train(0, 0):
        assert images.dtype == dtype
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert labels.dtype == torch.int64
        sizes.append(len(images))
    assert sizes == [4, 4, 2], "the last incomplete batch is kept"
    assert batches.train_batches == 3


def test_low_precision_rounds_once_from_float32():
    dataset = make_dataset(10)
    exact = epoch_of(make_batches(dataset))[0]
    assert torch.equal(
        epoch_of(make_batches(dataset, dtype=torch.bfloat16))[0], exact.to(torch.bfloat16)
    )


def test_the_test_split_is_in_order_and_untouched():
    dataset = make_dataset(10)
    batches = make_batches(dataset, 4)
    images, labels = zip(*batches.test(), strict=True)
    assert batches.test_batches == 2
    assert [len(part) for part in images] == [4, 3]
    assert torch.cat(labels).tolist() == dataset.test_labels.tolist()
    expected = np.stack([normalized(image, dataset) for image in dataset.test_images])
    np.testing.assert_allclose(torch.cat(images).numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("limit", "batches"), [(0, 0), (1, 1), (2, 2), (3, 2)])
def test_the_test_split_can_be_limited_to_its_first_batches(limit, batches):
    shown = list(make_batches(make_dataset(10), 4).test(limit))
    assert len(shown) == batches


def test_on_the_cpu_the_images_are_used_where_they_are():
    dataset = make_dataset(10)
    batches = make_batches(dataset, 4, 0, False)
    dataset.train_images[:] = 255
    images, _ = epoch_of(batches)
    assert torch.unique(images[:, 0]).numel() == 1


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("batch_size", [4, 11, 20])
def test_batches_that_are_asked_for_are_those_that_are_shown(batch_size: int, flip: bool):
    batches = make_batches(make_dataset(11), batch_size, flip=flip)
    for epoch in (1, 2, 1):  # the memory of one epoch is used again for the next
        for shown, found in zip(
            epoch_of(batches, 3, epoch), asked_for(batches, 3, epoch), strict=True
        ):
            assert torch.equal(shown, found)
    test = [
        batches.test_at(torch.tensor([i]), batches.test_size(i))
        for i in range(batches.test_batches)
    ]
    for (shown, labels), (found, found_labels) in zip(batches.test(), test, strict=True):
        assert torch.equal(shown, found)
        assert torch.equal(labels, found_labels)


def test_an_epoch_that_is_begun_stays_in_its_memory():
    batches = make_batches(make_dataset(11))
    batches.begin(0, 1)
    assert batches._begun is not None
    before = [entry.data_ptr() for entry in batches._begun._entries()]
    first = batches._begun.order.clone()
    batches.begin(0, 2)
    assert [entry.data_ptr() for entry in batches._begun._entries()] == before
    assert not torch.equal(batches._begun.order, first)
