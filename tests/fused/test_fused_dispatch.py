"""Layers that the fused functions take over, what hooks see of them, and no compiler."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from normscope import fused
from normscope.fused import library
from normscope.models import fusing
from normscope.models.residual_blocks import BLOCKS
from normscope.models.resnet import SmallResNet
from warm_processes import run_python

needs_kernels = pytest.mark.skipif(
    fused.availability() is not None, reason=f"no kernels: {fused.availability()}"
)


def images(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator).contiguous(memory_format=torch.channels_last)


@needs_kernels
def test_small_tensors_stay_with_the_modules(monkeypatch):
    monkeypatch.setattr(fused, "LEAST_NUMBERS", 72)
    assert fused.normalize(nn.BatchNorm2d(4), nn.ReLU(), images(2, 4, 3, 3)) is not None
    assert fused.normalize(nn.BatchNorm2d(4), nn.ReLU(), images(1, 4, 3, 3)) is None


class Subclass(nn.BatchNorm2d):
    pass


@needs_kernels
@pytest.mark.parametrize(
    ("norm", "activation", "x", "residual"),
    [
        (nn.BatchNorm2d(4).eval(), nn.ReLU(), images(2, 4, 3, 3), None),
        (nn.BatchNorm2d(4), nn.GELU(), images(2, 4, 3, 3), None),
        (nn.BatchNorm2d(4), nn.ReLU(), images(2, 4, 3, 3).contiguous(), None),
        (nn.BatchNorm2d(4), nn.ReLU(), images(2, 4, 3, 3)[:, :, ::2], None),
        (nn.BatchNorm2d(4), nn.ReLU(), images(1, 4, 1, 1), None),
        (nn.BatchNorm2d(4), nn.ReLU(), images(2, 4, 3, 3).double(), None),
        (nn.BatchNorm2d(4).bfloat16(), nn.ReLU(), images(2, 4, 3, 3).bfloat16(), None),
        (nn.BatchNorm2d(4), nn.ReLU(), images(2, 4, 3, 3), images(2, 4, 3, 3).bfloat16()),
        (nn.BatchNorm2d(4), nn.ReLU(), images(2, 4, 3, 3), images(2, 4, 3, 3).contiguous()),
        (nn.BatchNorm2d(4), nn.ReLU(), images(2, 4, 3, 3), images(2, 4, 1, 1)),
        (nn.BatchNorm2d(4), nn.ReLU(), images(0, 4, 3, 3), None),
        (Subclass(4), nn.ReLU(), images(2, 4, 3, 3), None),
        (nn.GroupNorm(2, 4), nn.ReLU(), images(2, 4, 3, 3), None),
        (nn.Identity(), nn.ReLU(), images(2, 4, 3, 3), None),
        (nn.Identity(), nn.ReLU(), images(2, 4, 3, 3), images(2, 4, 3, 3)),
    ],
    ids=str,
)
def test_what_is_not_its_business_it_leaves_alone(norm, activation, x, residual):
    before = {name: buffer.clone() for name, buffer in norm.named_buffers()}
    assert fused.normalize(norm, activation, x, residual) is None
    assert all(torch.equal(buffer, before[name]) for name, buffer in norm.named_buffers())


@needs_kernels
def test_without_gradients_it_leaves_the_layer_alone():
    with torch.no_grad():
        assert fused.normalize(nn.BatchNorm2d(4), nn.ReLU(), images(2, 4, 3, 3)) is None


@needs_kernels
def test_one_value_per_channel_is_refused_as_ever():
    with (
        fusing.using(fused.normalize),
        pytest.raises(ValueError, match="more than 1 value per channel"),
    ):
        fusing.normalize(nn.BatchNorm2d(4), nn.ReLU(), images(1, 4, 1, 1))


@needs_kernels
def test_a_hook_sees_what_it_would_see_without_fusion():
    norm, activation, x = nn.BatchNorm2d(4), nn.ReLU(), images(2, 4, 3, 3)
    seen = {}
    handles = [
        norm.register_forward_hook(lambda module, args, output: seen.update(normalized=output)),
        activation.register_forward_pre_hook(lambda module, args: seen.update(entered=args[0])),
        norm.register_full_backward_hook(
            lambda module, inputs, outputs: seen.update(gradient=outputs[0])
        ),
    ]
    with fusing.using(fused.normalize):
        fusing.normalize(norm, activation, x.requires_grad_()).sum().backward()
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(seen["normalized"], F.batch_norm(x, None, None, training=True))
    assert torch.equal(seen["entered"], seen["normalized"])
    assert torch.equal(seen["gradient"], (seen["normalized"] > 0).float())
    assert fused.normalize(norm, activation, x) is not None, (
        "and is fused again after the hooks are gone"
    )


@needs_kernels
def test_a_global_hook_turns_fusion_off():
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, output: None)
    try:
        assert fused.normalize(nn.BatchNorm2d(4), nn.ReLU(), images(2, 4, 3, 3)) is None
    finally:
        handle.remove()


@needs_kernels
def test_a_hook_that_reads_statistics_only_leaves_the_bits_as_they_are():
    norm, x, residual = nn.BatchNorm2d(4), images(2, 4, 3, 3).requires_grad_(), images(2, 4, 3, 3)
    plain = fused.normalize(norm, nn.ReLU(), x, residual)
    seen = []

    def hook(module, args, output):
        seen.append((module, args[0], output.grad_fn))

    hook.reads_statistics_only = True  # type: ignore[attr-defined]
    handle = norm.register_forward_hook(hook)
    watched = fused.normalize(norm, nn.ReLU(), x, residual)
    handle.remove()
    assert torch.equal(plain, watched)
    ((module, seen_input, node),) = seen
    assert module is norm
    assert seen_input is x
    assert node._raw_saved_result1.unpack_hook is None
    torch.testing.assert_close(node._saved_result1, x.detach().mean((0, 2, 3)))
    torch.testing.assert_close(
        node._saved_result2, (x.detach().var((0, 2, 3), correction=0) + norm.eps).rsqrt()
    )


def train(model: nn.Module, implementation, steps: int) -> list[float]:
    """Losses of SGD on one batch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    x, labels = images(16, 3, 16, 16), torch.arange(16) % 10
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        with fusing.using(implementation):
            loss = F.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def network(norm: str = "batch", block: str = "post-activation") -> nn.Module:
    torch.manual_seed(0)
    return SmallResNet(norm, widths=(8, 16), blocks_per_stage=1, block=block).to(
        memory_format=torch.channels_last
    )


@needs_kernels
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("norm", ["batch", "none", "group"])
def test_a_network_trains_the_same_with_it(norm, block):
    eager, ours, again = network(norm, block), network(norm, block), network(norm, block)
    expected = train(eager, None, 20)
    losses = train(ours, fused.normalize, 20)
    assert losses[0] == pytest.approx(expected[0], rel=1e-5)
    assert losses == pytest.approx(expected, rel=0.02, abs=2e-3)
    assert expected[-1] < expected[0] - 0.03, "and it does train"
    assert losses == train(again, fused.normalize, 20), "to the same bits each time"
    assert list(ours.state_dict()) == list(eager.state_dict())
    eager.load_state_dict(ours.state_dict())
    eager.eval(), ours.eval()
    with fusing.using(fused.normalize):
        assert torch.equal(ours(images(2, 3, 16, 16)), eager(images(2, 3, 16, 16)))


@needs_kernels
def test_in_the_network_every_normalization_is_fused(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a batch normalization ran module by module")

    model = network()
    monkeypatch.setattr(nn.BatchNorm2d, "forward", refuse)
    train(model, fused.normalize, 1)
    with pytest.raises(AssertionError, match="module by module"):
        train(model, None, 1)


TRAIN_ONCE = """
import torch
from normscope import fused
from normscope.models import fusing
from warm_processes import run_python
norm = torch.nn.BatchNorm2d(4)
x = torch.randn(2, 4, 3, 3).contiguous(memory_format=torch.channels_last)
with fusing.using(fused.normalize):
    fusing.normalize(norm, torch.nn.ReLU(), x).sum().backward()
print(fused.availability(), int(norm.num_batches_tracked), sep="; ")
"""


def test_without_a_compiler_the_modules_do_the_work(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    done = run_python("-c", TRAIN_ONCE)
    assert done.stdout == "no C++ compiler; 1\n", done.stderr


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """No kernels loaded yet, and an empty cache."""
    monkeypatch.setenv("NORMSCOPE_CACHE", str(tmp_path / "cache"))
    library.load.cache_clear()
    yield tmp_path
    library.load.cache_clear()


def test_a_compiler_that_fails_is_told_in_one_line(fresh, monkeypatch):
    broken = fresh / "c++"
    broken.write_text(
        "#!/bin/sh\necho first >&2\necho 'kernels.cpp:1: error: no' >&2\n"
        "echo more error >&2\nexit 1\n"
    )
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    assert fused.availability() == "the C++ compiler failed: kernels.cpp:1: error: no"
    assert fused.normalize(nn.BatchNorm2d(4), nn.ReLU(), images(2, 4, 3, 3)) is None


@needs_kernels
def test_a_cache_that_cannot_be_written_is_no_error(fresh, monkeypatch):
    (fresh / "file").touch()
    monkeypatch.setenv("NORMSCOPE_CACHE", str(fresh / "file"))
    assert str(fused.availability()).startswith("the kernels cannot be built: ")


@needs_kernels
def test_kernels_are_built_once(fresh, monkeypatch):
    assert fused.availability() is None
    built, sealed = sorted(Path(fresh, "cache", "kernels").iterdir())
    library.load.cache_clear()
    monkeypatch.setattr(library, "_build", lambda *args: pytest.fail("built again"))
    assert fused.availability() is None
    assert (built.suffix, sealed.suffix) == (".so", ".sha256")


@needs_kernels
@pytest.mark.parametrize("damage", ["cut", "another", "empty"])
def test_kernels_that_are_damaged_are_built_again(fresh, damage, monkeypatch):
    """A library cut in half ends a process with SIGBUS when it is loaded."""
    folder = Path(fresh, "cache", "kernels")
    compiler, whole, builds = library.find_compiler(), bytes(range(100)), []

    def build(_, flags, path):
        builds.append(flags)
        path.write_bytes(whole)

    monkeypatch.setattr(library, "_build", build)
    built = library._built(compiler, parallel=False)
    built.write_bytes({"cut": whole[: len(whole) // 2], "another": b"else", "empty": b""}[damage])
    assert library._built(compiler, parallel=False) == built
    assert built.read_bytes() == whole
    assert len(builds) == 2
    assert len(list(folder.iterdir())) == 2


@needs_kernels
def test_serial_kernels_are_used_on_one_thread_only(monkeypatch):
    loaded = library.load()
    assert isinstance(loaded, library.Library)
    monkeypatch.setattr(fused, "load", lambda: library.Library(loaded.functions, parallel=False))
    before = torch.get_num_threads()
    try:
        taken = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            taken.append(
                fused.normalize(nn.BatchNorm2d(4), nn.ReLU(), images(2, 4, 3, 3)) is not None
            )
    finally:
        torch.set_num_threads(before)
    assert taken == [True, False]
