"""Normalizations of queries and keys: gains that stay equal, and gains of another length."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import normscope
from normscope.commands.check import check_state_dict

WIDTH = 16


class Attention(nn.Module):
    def __init__(self, names: tuple[str, str], size: int = WIDTH):
        super().__init__()
        for name in names:
            self.add_module(name, nn.RMSNorm(size))


def two_blocks(names: tuple[str, str], size: int = WIDTH) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(*[Attention(names, size) for _ in range(2)])
    for block in model:
        gain = 1 + 0.1 * torch.randn(size)
        for norm in block.children():
            norm.weight.data.copy_(gain)
    return model


def codes(report) -> set[str]:
    return {finding.code for finding in report}


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("q_norm", "k_norm"), False),
        (("norm_added_q", "norm_added_k"), False),
        (("query_layernorm", "key_layernorm"), False),
        (("queryNorm", "keyNorm"), False),
        (("q_norm", "v_norm"), True),
        (("input_layernorm", "post_attention_layernorm"), True),
    ],
)
def test_gains_that_one_gradient_keeps_equal_are_no_copies(names, found):
    state = two_blocks(names).state_dict()
    assert ("NS705" in codes(check_state_dict(state))) is found


def test_a_query_norm_with_the_gains_of_a_key_norm_elsewhere_is_a_copy():
    model = two_blocks(("q_norm", "k_norm"))
    model[1].q_norm.weight.data.copy_(model[0].k_norm.weight.data)
    assert "NS705" in codes(check_state_dict(model.state_dict()))


def test_gains_of_another_length_in_the_other_model():
    names = ("q_norm", "k_norm")
    per_head, wide = two_blocks(names, 4), two_blocks(names)
    reports = (
        normscope.check(per_head, other=wide),
        check_state_dict(per_head.state_dict(), other=wide.state_dict()),
    )
    for report in reports:
        found = [f for f in report if f.code == "NS702"]
        assert len(found) == 4
        assert "each head" in found[0].message
        assert (found[0].evidence["values"], found[0].evidence["other"]) == (4, 16)
    assert "NS702" not in codes(normscope.check(wide, other=two_blocks(names)))


def test_the_words_on_heads_are_for_queries_and_keys_alone():
    here, there = nn.Sequential(nn.LayerNorm(4)), nn.Sequential(nn.LayerNorm(8))
    (finding,) = [f for f in normscope.check(here, other=there) if f.code == "NS702"]
    assert "head" not in finding.message
