import pytest
import torch
from torch import nn
from torch.nn import functional as F

from normscope.watching.active_regions import FUNCTIONS, followers


def follower(consume):
    """What `followers` finds behind a batch norm whose output goes into a function."""
    norm = nn.BatchNorm2d(4)
    made = norm(torch.randn(2, 4, 6, 6, requires_grad=True))
    node = made.grad_fn
    return followers(consume(made), {"norm": node}).get("norm")


class TestFollowers:
    @pytest.mark.parametrize("name", sorted(FUNCTIONS))
    def test_every_activation_is_known(self, name):
        assert follower(getattr(F, name)) == (name, [])

    def test_an_activation_in_place(self):
        assert follower(F.relu_) == ("relu", [])

    def test_through_a_residual_addition_and_pooling(self):
        other = torch.randn(2, 4, 6, 6)
        assert follower(lambda x: torch.tanh(F.max_pool2d(x + other, 2))) == (
            "tanh",
            ["addition", "max pooling"],
        )

    def test_the_nearest_of_two(self):
        assert follower(lambda x: torch.sigmoid(x.flatten(1) + 1).sum() + F.relu(x).sum()) == (
            "relu",
            [],
        )

    def test_outputs_in_containers(self):
        assert follower(lambda x: {"loss": None, "parts": (F.relu(x), [3])}) == ("relu", [])

    def test_none_behind_a_linear_layer(self):
        assert follower(lambda x: F.relu(nn.Linear(6, 3)(x))) is None
        assert follower(lambda x: 5) is None
