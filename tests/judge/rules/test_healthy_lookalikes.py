"""Healthy networks that look like sick ones: nobody is warned of them."""

from __future__ import annotations

import copy
import textwrap

import pytest
import torch
from torch import nn

from normscope.commands.check import check
from normscope.commands.watch import watch
from normscope.errors import InputError
from warm_processes import run_python


def alarms(report) -> set[str]:
    return {finding.code for finding in report if finding.severity != "info"}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def running_over(norm: nn.Module, draw, steps: int = 200) -> nn.Module:
    """The layer in eval mode, after so many batches; its weights look trained."""
    with torch.no_grad():
        norm.bias += torch.linspace(-0.1, 0.1, len(norm.bias))
        for _ in range(steps):
            norm(draw())
    return norm.eval()


@pytest.mark.parametrize("rare", [(8, 0.01), (30, 0.005), (20, 0.002)])
def test_rare_columns_have_a_noise_of_their_own(rare):
    columns, share = rare
    chances = torch.cat([torch.full((12,), 0.4), torch.full((columns,), share)])
    g = generator()

    def draw() -> torch.Tensor:
        return (torch.rand(64, len(chances), generator=g) < chances).float()

    model = running_over(nn.BatchNorm1d(len(chances)), draw)
    batches = [draw() for _ in range(12)]
    assert not alarms(check(model, batches, select=["NS501"]))
    with torch.no_grad():  # the columns that are not rare still show a fault
        model.running_mean[:12] += 0.4
    assert alarms(check(model, batches, select=["NS501"]))


@pytest.mark.parametrize("off", ["running_mean", "running_var"])
def test_one_channel_among_many_is_judged_alone(off):
    g = generator()
    model = running_over(nn.BatchNorm1d(40), lambda: torch.randn(64, 40, generator=g))
    batches = [torch.randn(64, 40, generator=g) for _ in range(8)]
    assert not alarms(check(model, batches, select=["NS501"]))
    with torch.no_grad():
        getattr(model, off)[7] += 5
    [finding] = check(model, batches, select=["NS501"])
    assert finding.evidence["channels"] == "7"


def test_nearly_empty_bins_have_a_noise_of_their_own():
    """Of log energies, the lowest and highest bins are at the floor in all but some clips."""
    g = generator()

    def draw() -> torch.Tensor:
        loud = torch.rand(32, 24, 1, generator=g) < torch.linspace(1, 0.03, 24)[:, None]
        return torch.where(loud, torch.randn(32, 24, 20, generator=g), torch.tensor(-4.0))

    model = running_over(nn.BatchNorm1d(24), draw)
    assert not alarms(check(model, [draw() for _ in range(8)], select=["NS501"]))


class Pooling(nn.Module):
    """Batch normalization over rows, of which a changing number belongs to each output."""

    def __init__(self, width: int):
        super().__init__()
        self.inp, self.norm = nn.Linear(5, width), nn.BatchNorm1d(width)

    def forward(self, nodes, owner):
        h = torch.relu(self.norm(self.inp(nodes)))
        count = torch.bincount(owner)
        return torch.zeros(len(count), h.shape[1]).index_add_(0, owner, h) / count[:, None]


def owned_rows(g: torch.Generator, owners: int, widest: int) -> dict:
    """Rows that resemble those of the same owner, as a graph's nodes or a scan's points do."""
    count = torch.randint(3, widest, (owners,), generator=g)
    owner = torch.arange(owners).repeat_interleave(count)
    nodes = torch.randn(owners, 5, generator=g)[owner]
    return {"nodes": nodes + 0.2 * torch.randn(len(owner), 5, generator=g), "owner": owner}


@pytest.mark.parametrize(("owners", "widest"), [(12, 24), (48, 12)])
def test_rows_of_one_owner_are_no_independent_samples(owners, widest):
    torch.manual_seed(0)
    g, model = generator(), Pooling(7)
    with torch.no_grad():
        model.norm.bias += torch.linspace(0, 0.1, 7)
        for _ in range(100):
            model(**owned_rows(g, owners, widest))
    report = check(model.eval(), [owned_rows(g, owners, widest) for _ in range(8)])
    assert not alarms(report)
    assert "NS504" in {rule.code for rule in report.not_evaluated}


class SavedCopy(nn.Module):
    """A module as it was, beside the copy that is trained and called, as adapters keep them."""

    def __init__(self, module: nn.Module, names: tuple[str, str]):
        super().__init__()
        self.names = names
        self.add_module(names[0], copy.deepcopy(module).requires_grad_(False))
        self.add_module(names[1], nn.ModuleDict({"default": module}))

    def forward(self, x):
        return self.get_submodule(self.names[1])["default"](x)


def adapted(names) -> nn.Module:
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8))
    return nn.Sequential(SavedCopy(head, names), nn.ReLU(), nn.Linear(8, 2)).train()


@pytest.mark.parametrize("names", [("original_module", "modules_to_save"), ("before", "after")])
def test_copies_that_never_run_do_not_drift(names):
    batches = [torch.randn(32, 6, generator=generator(k)) for k in range(3)]
    assert "NS304" not in alarms(check(adapted(names), batches))
    frozen = adapted(names)
    frozen[0].requires_grad_(False)
    frozen[2].requires_grad_(False)
    assert "NS304" in alarms(check(frozen, batches))


def test_an_adapters_original_is_known_without_a_forward():
    assert "NS304" not in alarms(check(adapted(("original_module", "modules_to_save"))))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_default_eps_of_rms_norm_is_that_of_float32(dtype):
    model = nn.Sequential(nn.Embedding(9, 16), nn.RMSNorm(16), nn.Linear(16, 3)).to(dtype).eval()
    with torch.no_grad():
        model[0].weight *= 0.05
        model[1].weight += torch.linspace(0, 0.5, 16)
    tokens = [torch.randint(0, 9, (8, 5), generator=generator(k)) for k in range(3)]
    assert not alarms(check(model, tokens, select=["NS207", "NS110"]))
    with torch.no_grad():
        model[0].weight *= 1e-3
    assert "NS207" in alarms(check(model.float(), tokens, select=["NS207"]))


def matrices_apart(model: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon takes matrices, another optimizer the rest."""
    matrices = [p for p in model.parameters() if p.ndim == 2]
    rest = [p for p in model.parameters() if p.ndim != 2]
    return [torch.optim.Muon(matrices, 1e-3), torch.optim.AdamW(rest, 1e-3, weight_decay=0.0)]


def test_several_optimizers_hold_the_model_together():
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.RMSNorm(8))
    both = matrices_apart(model)
    assert not alarms(check(model, optimizer=both))
    assert not alarms(check(model, optimizer=tuple(reversed(both))))
    assert "NS401" in alarms(check(model, optimizer=both[:1]))
    with pytest.raises(InputError, match="empty list"):
        check(model, optimizer=[])
    with pytest.raises(InputError, match="several in a list, not a str"):
        check(model, optimizer=[both[0], "AdamW"])


@pytest.mark.parametrize("order", [1, -1])
def test_a_loop_of_several_optimizers_is_watched(order):
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.RMSNorm(8))
    other = torch.optim.SGD(nn.Linear(2, 2).parameters(), 0.1)  # another model's
    both = matrices_apart(model)[::order]
    with watch(model, optimizer=[other, *both], check="raise") as watcher:
        for step in range(60):
            model(torch.randn(16, 6, generator=generator(step))).square().mean().backward()
            for optimizer in both:
                optimizer.step()
                optimizer.zero_grad()
    assert watcher.step == 60
    assert not alarms(watcher.findings)


SHARDED = """
    import sys
    import torch
    from torch import nn
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    import normscope

    meet = f"file://{sys.argv[1]}/meet"
    torch.distributed.init_process_group("gloo", init_method=meet, rank=0, world_size=1)
    batches = [torch.randn(16, 6, generator=torch.Generator().manual_seed(k)) for k in range(6)]

    def trained(look):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 2))
        mesh = init_device_mesh("cpu", (1,))
        fully_shard(model[1], mesh=mesh)
        fully_shard(model, mesh=mesh)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        finish = look(model, optimizer)
        for x in batches:
            model(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        finish()
        return [p.full_tensor() for p in model.parameters()]

    def watched(model, optimizer):
        state = model.state_dict()
        report = normscope.check(model, batches, optimizer=optimizer, other=state)
        assert not report.errors and not report.warnings, report
        watcher = normscope.watch(model, optimizer=optimizer, every=1, gradients_every=1)

        def finish():
            watcher.close(quiet=True)
            steps, gradients = watcher.recording.query("1", "weight_gradient")
            assert len(steps) == 6 and gradients.shape == (6, 8)

        return finish

    plain = trained(lambda model, optimizer: lambda: None)
    assert all(map(torch.equal, plain, trained(watched)))
    torch.distributed.destroy_process_group()
"""


@pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="this torch has no gloo",
)
def test_sharded_parameters_are_read_and_left_as_they_were(tmp_path):
    strict = "import warnings; warnings.simplefilter('error')\n"
    done = run_python("-c", strict + textwrap.dedent(SHARDED), tmp_path)
    assert done.returncode == 0, done.stderr
