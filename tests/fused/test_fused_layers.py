"""The fused layers against a slow float64 computation, and against PyTorch's own modules."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from normscope import fused

pytestmark = pytest.mark.skipif(
    fused.availability() is not None, reason=f"no kernels: {fused.availability()}"
)

ULP = {torch.float32: 2.0**-23, torch.bfloat16: 2.0**-8}
LARGE = [
    (8, 16, 16, 16),
    (3, 32, 13, 11),
    (2, 3, 33, 31),
    (5, 300, 4, 4),
    (128, 64, 1, 1),
    (1, 1, 40, 40),
]


def images(shape, dtype=torch.float32, seed=0, offset=0.0, spread=1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator) * spread + offset
    return values.to(dtype).contiguous(memory_format=torch.channels_last)


def batch_norm(channels: int, seed: int = 0, **options) -> nn.BatchNorm2d:
    """A layer in training mode whose parameters are not the identity."""
    generator = torch.Generator().manual_seed(seed)
    norm = nn.BatchNorm2d(channels, **options)
    if norm.affine:
        nn.init.normal_(norm.weight, 1.0, 0.5, generator=generator)
        nn.init.normal_(norm.bias, 0.0, 0.5, generator=generator)
    return norm


def leaf(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().clone().requires_grad_()


def run(norm, relu, x, residual, gradient, *, fuse=True):
    """Output, and the gradients of x, residual, weight and bias; through the modules where not
    fused.
    """
    x, residual = leaf(x), leaf(residual)
    activation = nn.ReLU() if relu else None
    if fuse:
        output = fused.normalize(norm, activation, x, residual)
        assert output is not None, "the fused layer declined"
    else:
        output = norm(x) if residual is None else norm(x) + residual
        output = F.relu(output) if relu else output
    wanted = [tensor for tensor in (x, residual, norm.weight, norm.bias) if tensor is not None]
    return [output.detach(), *torch.autograd.grad(output, wanted, gradient)]


def reference(
    norm: nn.BatchNorm2d, mask: Tensor | None, x: Tensor, residual: Tensor | None, gradient: Tensor
):
    """The same in float64, two passes over the data. The ReLU passes where `mask` says so."""
    x, residual, weight, bias = (
        None if t is None else leaf(t.double()) for t in (x, residual, norm.weight, norm.bias)
    )
    mean = x.mean((0, 2, 3), keepdim=True)
    variance = ((x - mean) ** 2).mean((0, 2, 3), keepdim=True)
    value = (x - mean) / (variance + norm.eps).sqrt()
    if weight is not None:
        value = value * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)
    if residual is not None:
        value = value + residual
    output = value if mask is None else torch.where(mask, value, 0.0)
    wanted = [tensor for tensor in (x, residual, weight, bias) if tensor is not None]
    return value.detach(), [
        output.detach(),
        *torch.autograd.grad(output, wanted, gradient.double()),
    ]


def assert_close_by_channel(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Errors relative to the largest number of the tensor."""
    error = (actual.double() - expected).abs().max()
    assert error <= tolerance * expected.abs().max().clamp_min(1e-3), (
        float(error),
        float(expected.abs().max()),
    )


def check_against_reference(norm, relu, x, residual, gradient, condition=1.0):
    results = run(norm, relu, x, residual, gradient)
    mask = results[0] > 0 if relu else None
    value, expected = reference(norm, mask, x, residual, gradient)
    ulp = ULP[x.dtype]
    arithmetic = 64 * ULP[torch.float32] * condition
    if mask is not None:  # the ReLU may decide otherwise only where rounding decides
        assert (
            value[mask != (value > 0)].abs().max().item() <= 1e-4
            if (mask != (value > 0)).any()
            else True
        )
    for actual, wanted in zip(results, expected, strict=True):
        stored = ulp if actual.dtype == x.dtype else 0.0
        assert_close_by_channel(actual, wanted, stored + arithmetic)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", LARGE)
@pytest.mark.parametrize(
    ("relu", "add"), [(True, False), (True, True), (False, False), (False, True)]
)
def test_outputs_and_gradients_are_those_of_float64(shape, dtype, relu, add):
    x = images(shape, dtype, 1, offset=0.5, spread=2.0)
    residual = images(shape, dtype, 2) if add else None
    check_against_reference(batch_norm(shape[1]), relu, x, residual, images(shape, dtype, 3))


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(
        st.integers(1, 5),
        st.sampled_from([1, 2, 3, 16, 17, 129, 300]),
        st.integers(1, 7),
        st.integers(1, 7),
    ),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    relu=st.booleans(),
    add=st.booleans(),
    affine=st.booleans(),
    eps=st.sampled_from([1e-5, 1e-3, 1.0]),
    seed=st.integers(0, 1000),
)
def test_odd_shapes_agree_with_float64(shape, dtype, relu, add, affine, eps, seed):
    rows = shape[0] * shape[2] * shape[3]
    if rows < 4:
        # two values are +1 and -1 after normalization: of their gradient only rounding is left
        return
    norm = batch_norm(shape[1], seed, affine=affine, eps=eps)
    x, residual = images(shape, dtype, seed), images(shape, dtype, seed + 1) if add else None
    check_against_reference(norm, relu, x, residual, images(shape, dtype, seed + 2), condition=8.0)


@pytest.mark.parametrize("kind", ["far from zero", "first row far off", "constant"])
@pytest.mark.parametrize("channels", [1, 16])
def test_the_variance_survives_numbers_far_from_zero(kind, channels):
    x = images((16, channels, 16, 16), offset=1e3 if kind == "far from zero" else 0.0)
    if kind == "first row far off":
        x[0, :, 0, 0] = 1e3
    if kind == "constant":
        x.fill_(1000.1)
    norm = nn.BatchNorm2d(channels)
    output = fused.normalize(norm, None, x.requires_grad_(), None)
    mean, variance = (
        x.detach().double().mean((0, 2, 3)),
        x.detach().double().var((0, 2, 3), correction=0),
    )
    # a block shifts by its first row: where that is an outlier of 1,000 deviations, some digits go
    rtol = 1e-4 if kind == "first row far off" else 1e-5
    torch.testing.assert_close(
        output.grad_fn._saved_result1.double(),
        mean,
        rtol=1e-7,
        atol=1e-6 * float(variance.max().sqrt()) + 1e-9,
    )
    torch.testing.assert_close(
        output.grad_fn._saved_result2.double(), (variance + norm.eps).rsqrt(), rtol=rtol, atol=0
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": None},
        {"momentum": 1.0},
        {"affine": False},
        {"track_running_stats": False},
        {"eps": 0.1},
    ],
)
def test_three_steps_agree_with_the_modules(dtype, add, options):
    ours = batch_norm(16, **options)
    theirs = copy.deepcopy(ours)
    for step in range(3):
        x, gradient = (
            images((4, 16, 9, 7), dtype, step, offset=step),
            images((4, 16, 9, 7), dtype, step + 10),
        )
        residual = images((4, 16, 9, 7), dtype, step + 20) if add else None
        pairs = zip(
            run(ours, True, x, residual, gradient),
            run(theirs, True, x, residual, gradient, fuse=False),
            strict=True,
        )
        for actual, expected in pairs:
            if dtype is torch.float32:
                torch.testing.assert_close(actual, expected, rtol=1e-4, atol=2e-5)
            else:
                # the modules round twice where a residual is added: a few signs near zero differ
                assert (actual.float() - expected.float()).norm() <= (
                    0.1 if add else 0.01
                ) * expected.float().norm()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, buffer in theirs.named_buffers():
        torch.testing.assert_close(ours.get_buffer(name), buffer, rtol=1e-5, atol=1e-6)
    if ours.track_running_stats:
        assert ours.num_batches_tracked == 3
        assert ours.running_mean._version > 0


def test_not_a_number_stays_one_as_in_the_modules():
    x, gradient = images((4, 3, 5, 5)), images((4, 3, 5, 5), seed=1)
    x[1, 1, 2, 2] = torch.nan
    x[2, 2, 0, 0] = torch.inf
    for residual in (None, images((4, 3, 5, 5), seed=2)):
        ours, theirs = batch_norm(3), batch_norm(3)
        actual = run(ours, True, x, residual, gradient)
        expected = run(theirs, True, x, residual, gradient, fuse=False)
        assert actual[0][:, 1].isnan().all()
        for mine, modules in zip(actual, expected, strict=True):
            torch.testing.assert_close(mine.isnan(), modules.isnan())
        for name in ("running_mean", "running_var"):
            torch.testing.assert_close(
                ours.get_buffer(name).isnan(), theirs.get_buffer(name).isnan()
            )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_bit_pattern_of_not_a_number_stays_one(dtype):
    """Rounding to bfloat16 must not carry a NaN whose bits are all set over into minus zero."""
    norm = batch_norm(3)
    with torch.no_grad():
        norm.weight.view(torch.int32)[1] = 0x7FFFFFFF
    output = fused.normalize(norm, nn.ReLU(), images((4, 3, 5, 5), dtype))
    assert output[:, 1].isnan().all()
    assert output[:, ::2].isfinite().all()


def test_bfloat16_rounds_to_the_nearest_even():
    """The arithmetic is float32, so that the output is PyTorch's conversion of the float32 one."""
    x, residual = (images((2, 8, 16, 16), torch.bfloat16, seed) for seed in (0, 1))
    output = fused.normalize(batch_norm(8), nn.ReLU(), x, residual)
    exact = fused.normalize(batch_norm(8), nn.ReLU(), x.float(), residual.float())
    assert output is not None
    assert exact is not None
    assert torch.equal(output, exact.bfloat16())


def test_the_bits_depend_on_the_input_alone():
    """Neither a second run nor another number of threads changes them: runs resume bitwise."""
    arguments = (
        True,
        images((64, 16, 16, 16)),
        images((64, 16, 16, 16), seed=1),
        images((64, 16, 16, 16), seed=2),
    )
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 1, 2):
            torch.set_num_threads(threads)
            results.append(run(batch_norm(16), *arguments))
    finally:
        torch.set_num_threads(before)
    for first, second, third in zip(*results, strict=True):
        assert torch.equal(first, second)
        assert torch.equal(first, third)


def test_a_broadcast_gradient_is_taken():
    x = images((4, 16, 8, 8))
    results = []
    for fuse in (True, False):
        leaf_x, norm = leaf(x), batch_norm(16)
        output = fused.normalize(norm, nn.ReLU(), leaf_x) if fuse else F.relu(norm(leaf_x))
        F.adaptive_avg_pool2d(output, 1).square().sum().backward()
        results.append((leaf_x.grad, norm.weight.grad, norm.bias.grad))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)


def test_frozen_parameters_and_inputs_get_no_gradient():
    norm = batch_norm(16).requires_grad_(False)
    x = leaf(images((4, 16, 8, 8)))
    fused.normalize(norm, nn.ReLU(), x).sum().backward()
    assert norm.weight.grad is None
    assert x.grad is not None

    norm.requires_grad_(True)
    fused.normalize(norm, nn.ReLU(), images((4, 16, 8, 8))).sum().backward()
    assert norm.weight.grad is not None


def test_checkpointing_recomputes_the_same_gradients():
    x, norm = leaf(images((4, 16, 8, 8))), batch_norm(16)
    direct = torch.autograd.grad(
        fused.normalize(norm, nn.ReLU(), x).square().sum(), (x, norm.weight)
    )
    output = torch.utils.checkpoint.checkpoint(
        fused.normalize, norm, nn.ReLU(), x, use_reentrant=False
    )
    again = torch.autograd.grad(output.square().sum(), (x, norm.weight))
    assert all(torch.equal(a, b) for a, b in zip(direct, again, strict=True))
