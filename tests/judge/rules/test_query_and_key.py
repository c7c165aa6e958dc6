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


class Heads(nn.Module):
    """Queries in 4 heads of 4, keys in `groups` heads; each normalized "wide", per "head" or
    "folded", where the heads stand in the batch.
    """

    def __init__(self, query: str, key: str, groups: int = 4):
        super().__init__()
        self.how, self.groups = (query, key), groups
        self.q_norm = nn.RMSNorm(4 * (4 if query == "wide" else 1))
        self.k_norm = nn.RMSNorm(4 * (groups if key == "wide" else 1))
        self.k = nn.Linear(WIDTH, 4 * groups)

    def _normalized(self, x, norm, how):
        if how == "wide":
            return norm(x).unflatten(-1, (-1, 4))
        heads = x.unflatten(-1, (-1, 4))
        if how == "folded":
            folded = norm(heads.transpose(1, 2).flatten(0, 1))
            return folded.unflatten(0, (len(x), -1)).transpose(1, 2)
        return norm(x).unsqueeze(2) if how == "single" else norm(heads)

    def forward(self, x):
        q = self._normalized(x, self.q_norm, self.how[0])
        k = self._normalized(self.k(x), self.k_norm, self.how[1])
        return torch.einsum("blhd,bmgd->bhgl", q, k)


@pytest.mark.parametrize(
    ("query", "key", "groups", "unlike"),
    [
        ("wide", "head", 4, True),
        ("head", "wide", 2, True),
        ("wide", "folded", 2, True),
        ("wide", "wide", 4, False),
        ("wide", "wide", 2, False),  # OLMo 2 with fewer keys than queries
        ("head", "head", 2, False),
        ("head", "folded", 2, False),
        ("head", "single", 1, False),  # one key for all heads has no axis of heads
    ],
)
def test_a_query_in_heads_and_a_key_over_all(query, key, groups, unlike):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, WIDTH), Heads(query, key, groups))
    report = normscope.check(model, [torch.randn(4, 12, 8)])
    found = [f for f in report if f.code == "NS517"]
    assert [f.layer for f in found] == (["1.q_norm"] if unlike else [])
    assert all(set(f.evidence) == {"q_norm", "k_norm"} for f in found)
