"""A step on a device whose values cannot be read: what would wait for a GPU fails here."""

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from normscope.commands.watch import watch
from normscope.errors import NormscopeWarning


class Block(nn.Module):
    """An attention of each kind, with residual sums."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        x = x + self.attention(h, h, h)[0]
        return x + F.scaled_dot_product_attention(h[None], h[None], h[None], is_causal=True)[0]


class HostData(TorchFunctionMode):
    """Finds lists and numbers of Python's that are copied to the device, for which is waited."""

    def __init__(self):
        super().__init__()
        self.copied: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is Tensor.__getitem__:
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            made = any(isinstance(each, list) for each in index)
        else:
            made = func in (torch.tensor, torch.as_tensor)
        if made and isinstance(result, Tensor) and result.device.type != "cpu":
            self.copied.append(str(func))
        return result


@pytest.mark.parametrize("optimized", [True, False])
@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.filterwarnings("ignore::normscope.errors.NormscopeWarning")
def test_no_step_reads_from_the_device_or_copies_to_it(optimized, compiled):
    with torch.device("meta"):
        layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.GroupNorm(2, 8)]
        tokens = [nn.Flatten(2), nn.Linear(36, 16), Block(16), nn.RMSNorm(16)]
        model = nn.Sequential(*layers, nn.InstanceNorm2d(8), *tokens)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, foreach=False)
    watched = torch.compile(model, backend="eager") if compiled else model
    every = {"every": 1, "histograms_every": 1, "gradients_every": 1}
    watcher = watch(watched, optimizer=optimizer if optimized else None, stream=True, **every)
    with HostData() as host, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", NormscopeWarning)
        for _ in range(3):
            optimizer.zero_grad()
            watched(torch.empty(64, 3, 8, 8, device="meta")).square().mean().backward()
            optimizer.step()
    assert (watcher.active, watcher.step, host.copied) == (True, 3, [])
    said = [str(warning.message) for warning in caught if warning.category is NormscopeWarning]
    assert [text.partition(":")[0] for text in said] == ["The model is compiled"] * compiled
    watcher.close(quiet=True)
