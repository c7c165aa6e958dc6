"""Two gloo processes under DistributedDataParallel: each records its part, loading merges them."""

import textwrap

import numpy as np
import pytest
import torch

from normscope.errors import InputError
from normscope.records.recording import Recording
from warm_processes import Python

pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="this torch has no gloo",
)

WORKER = """
    import sys
    from functools import partial
    import numpy as np, torch, torch.distributed as dist
    from torch import nn
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
    from normscope.commands.watch import watch

    torch.set_num_threads(1)
    rank, folder = int(sys.argv[1]), sys.argv[2]
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)

    def run(start, wrap=nn.parallel.DistributedDataParallel):
        torch.manual_seed(0)
        head = nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), *head)
        model = wrap(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        finish = start(model, optimizer)
        for step in range(3):
            generator = torch.Generator().manual_seed(10 * step + rank)
            x = torch.randn(4 + 2 * rank, 3, 6, 6, generator=generator) * (1 + rank) + rank
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
        finish()
        values = model.state_dict().values()
        return [v.full_tensor() if hasattr(v, "full_tensor") else v for v in values]

    def tapped(model, optimizer):
        model.module[1].register_forward_hook(
            lambda m, a, o: inputs.append(a[0].detach().double().numpy())
        )
        return lambda: np.savez(f"{folder}/inputs{rank}.npz", *inputs)

    def recorded(name, model, optimizer):
        path = f"{folder}/{name}.sqlite"
        every = {"every": 1, "histograms_every": 1, "gradients_every": 1, "stream": True}
        return watch(model, optimizer=optimizer, path=path, **every).close

    inputs = []
    for one, two in zip(run(tapped), run(partial(recorded, "r")), strict=True):
        assert torch.equal(one, two), "watching changed the run"

    flat = partial(FullyShardedDataParallel, device_id=torch.device("cpu"))
    def in_blocks(model):
        model[1] = fully_shard(torch.compile(model[1], backend="eager"))
        return fully_shard(model)

    wraps = {"sharded": fully_shard, "flat": flat, "views": partial(flat, use_orig_params=True)}
    wraps["compiled"] = in_blocks
    for name, wrap in wraps.items():
        plain = run(lambda *_: lambda: None, wrap)
        for one, two in zip(plain, run(partial(recorded, name), wrap), strict=True):
            assert torch.equal(one, two), "watching changed the sharded run"
    dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with both ranks' parts and what their layers were given, after a run that watching
    did not change.
    """
    folder = tmp_path_factory.mktemp("ddp")
    worker = textwrap.dedent(WORKER)
    processes = [Python("-c", worker, rank, folder) for rank in (0, 1)]
    errors = [process.communicate()[1] for process in processes]
    assert all(process.returncode == 0 for process in processes), errors
    assert "1 layer, 3 steps" in errors[0]
    assert "1 layer, 3 steps" not in errors[1], "the first rank speaks for all"
    return folder


def test_each_rank_writes_its_part(folder):
    names = sorted(path.name for path in folder.glob("r*.sqlite"))
    assert names == ["r.rank1.sqlite", "r.sqlite"]


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("sharded", "1"),
        ("flat", "_fsdp_wrapped_module.1"),
        ("views", "_fsdp_wrapped_module.1"),
        ("compiled", "1._orig_mod"),
    ],
)
def test_shards_are_put_together_at_load(folder, name, layer):
    one, other = (Recording.load(folder / f"{each}.sqlite") for each in ("r", name))
    for statistic in ("weight", "weight_gradient", "bias_gradient", "batch_mean", "running_var"):
        ours, theirs = one.query("1", statistic)[1], other.query(layer, statistic)[1]
        assert ours.shape == theirs.shape == (3, 4)
        assert np.allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    ours, theirs = one.query("1", "update_ratio")[1], other.query(layer, "update_ratio")[1]
    assert len(theirs) == 3
    assert np.isfinite(theirs).all()
    assert np.allclose(ours, theirs, rtol=0.3), "a mean over two shards of a weight near 1"
    assert other.non_finite == []
    assert not any("not their own" in note for note in other.notes)
    moments = (each.query(at, "histogram_moments")[1] for each, at in ((one, "1"), (other, layer)))
    assert np.allclose(*moments, rtol=1e-3, atol=1e-5)
    if name == "sharded":
        assert other.query("1", "weight", rank=1)[1].shape == (3, 2)


def test_parts_are_merged_at_load(folder):
    recording = Recording.load(folder / "r.sqlite")
    assert recording.ranks == [0, 1]
    assert recording.complete
    inputs = [list(np.load(folder / f"inputs{rank}.npz").values()) for rank in (0, 1)]
    for step in range(3):
        own = inputs[1][step]
        assert np.allclose(
            recording.query("1", "batch_mean", rank=1)[1][step], own.mean((0, 2, 3)), atol=1e-5
        )
        both = np.concatenate([inputs[0][step], own])
        assert np.allclose(
            recording.query("1", "batch_mean")[1][step], both.mean((0, 2, 3)), atol=1e-5
        )
        assert np.allclose(
            recording.query("1", "batch_var")[1][step], both.var((0, 2, 3)), rtol=1e-4
        )
    everything = np.concatenate([x for part in inputs for x in part])
    assert recording.distribution("1", "input").counts.sum() == pytest.approx(everything.size)
    mean, std, _, kurtosis = recording.query("1", "histogram_moments")[1][-1].astype(float)
    last = np.concatenate([part[-1] for part in inputs]).swapaxes(0, 1).reshape(4, -1)
    centred = last - last.mean(1, keepdims=True)
    assert np.allclose([mean, std], [last.mean(1), last.std(1)], rtol=1e-4)
    assert np.allclose(kurtosis, (centred**4).mean(1) / last.std(1) ** 4, rtol=1e-4)
    with pytest.raises(InputError, match="Rank 2 is not in this recording. Ranks: 0, 1"):
        recording.query("1", "weight", rank=2)
