import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from normscope.errors import InputError
from normscope.watching.active_regions import (
    FUNCTIONS,
    derivative,
    followers,
    in_active_region,
    in_named_region,
    largest_derivative,
    mean_derivative,
)


def follower(consume):
    """What `followers` finds behind a batch norm whose output goes into a function."""
    norm = nn.BatchNorm2d(4)
    made = norm(torch.randn(2, 4, 6, 6, requires_grad=True))
    node = made.grad_fn
    return followers(consume(made), {"norm": node}).get("norm")


class TestFollowers:
    @pytest.mark.parametrize("name", sorted(FUNCTIONS))
    def test_every_activation_is_known(self, name):
        assert follower(FUNCTIONS[name]) == (name, [])

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


VALUES = torch.tensor([-3.0, -1.0, -0.5, 0.25, 1.0, 2.0], dtype=torch.float64)


class TestRegions:
    def test_derivatives(self):
        assert torch.equal(derivative("relu", VALUES), (VALUES > 0).double())
        sigmoid = torch.sigmoid(VALUES)
        assert torch.allclose(derivative("sigmoid", VALUES), sigmoid * (1 - sigmoid))
        assert torch.allclose(derivative("tanh", VALUES), 1 - torch.tanh(VALUES) ** 2)
        assert mean_derivative("relu", VALUES) == 0.5

    def test_named_regions_are_the_blogs(self):
        assert in_named_region("relu", VALUES) == pytest.approx(2 / 6)
        assert in_named_region("tanh", VALUES) == pytest.approx(4 / 6)
        with pytest.raises(InputError, match="Unknown activation with a named region 'gelu'"):
            in_named_region("gelu", VALUES)

    def test_active_where_the_derivative_is_a_tenth_of_its_largest(self):
        assert in_active_region("relu", VALUES) == 0.5
        edge = math.atanh(math.sqrt(0.9))  # 1 - tanh^2 = 0.1
        assert (
            in_active_region(
                "tanh", torch.tensor([-edge - 0.01, -edge + 0.01, edge - 0.01, edge + 0.01])
            )
            == 0.5
        )

    def test_largest_derivatives(self):
        assert largest_derivative("relu") == 1
        assert largest_derivative("sigmoid") == pytest.approx(0.25)
        assert largest_derivative("tanh") == 1

    def test_random_numbers_and_gradients_are_left_alone(self):
        x = VALUES.clone().requires_grad_()
        state = torch.get_rng_state()
        in_active_region("sigmoid", x)
        assert x.grad is None
        assert torch.equal(state, torch.get_rng_state())
