import dataclasses

import pytest
import torch
from tiny import PLAN, Keep, TinyBatches, tiny_network
from torch import nn
from torch.nn import functional as F

from normscope.errors import InputError
from normscope.models.registry import build
from normscope.studies.spec import OPTIMIZERS as OPTIMIZER_NAMES
from normscope.training.loop import train
from normscope.training.optimizers import (
    OPTIMIZERS,
    SeveralOptimizers,
    optimizer_of,
    split_parameters,
)
from normscope.training.plan import ResumeState

ADAMW = dataclasses.replace(
    PLAN, optimizer="adamw", learning_rate=0.01, weight_decay=0.1, warmup=5, clip=0.5
)
MUON = dataclasses.replace(ADAMW, optimizer="muon")


def network():
    """A network with a matrix inside, for Muon."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Flatten(), nn.Linear(32, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 2)]
        return nn.Sequential(*layers)


def plain_adamw(model, plan):
    """Warm-up, clipping and AdamW as a loop of one's own would have them."""
    weights = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": weights, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.99))
    cosine = [1.0, 0.8535533905932737, 0.5, 0.14644660940672627]  # (1 + cos(pi e / 4)) / 2
    step, batches = 0, TinyBatches()
    for epoch in range(plan.epochs):
        for images, labels in batches.train(plan.seed, epoch + 1):
            step += 1
            for group in optimizer.param_groups:
                group["lr"] = plan.learning_rate * cosine[epoch] * min(1, step / 5)
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
    return model


def test_adamw_with_warmup_and_clipping_equals_the_plain_loop():
    model = network()
    train(model, TinyBatches(), ADAMW)
    for ours, theirs in zip(
        model.parameters(), plain_adamw(network(), ADAMW).parameters(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("plan", [ADAMW, MUON])
@pytest.mark.parametrize("epochs_before", [1, 2])
def test_going_on_gives_the_same_bits(plan, epochs_before):
    whole, resumed, keep = network(), network(), Keep()
    train(whole, TinyBatches(), plan, callbacks=[keep])
    state = ResumeState.from_bytes(keep.states[epochs_before - 1])
    train(resumed, TinyBatches(), plan, resume=state)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_muon_has_the_matrices_inside_and_adamw_the_rest():
    model = build(
        "vit", norm="layer", in_channels=1, num_classes=10, image_size=8, activation="gelu", depth=1
    )
    optimizer = optimizer_of(model, MUON)
    assert isinstance(optimizer, SeveralOptimizers)
    muon, adamw = optimizer.parts
    names = {id(p): name for name, p in model.named_parameters()}
    held = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    assert held == {
        "blocks.0.attention.qkv.weight",
        "blocks.0.attention.out.weight",
        "blocks.0.feed_forward.up.weight",
        "blocks.0.feed_forward.down.weight",
    }
    rest = [names[id(p)] for group in adamw.param_groups for p in group["params"]]
    assert held.isdisjoint(rest)
    assert len(held) + len(rest) == len(names)


def test_hooks_and_rates_of_several_optimizers_reach_each():
    first, second = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    both = SeveralOptimizers([torch.optim.SGD([p], lr=1.0) for p in (first, second)])
    steps = []
    both.register_step_pre_hook(lambda *_: steps.append(1))
    for group in both.param_groups:
        group["lr"] = 0.25
    (first + 2 * second).backward()
    both.step()
    assert (first.item(), second.item(), steps) == (0.75, 0.5, [1])
    both.zero_grad()
    assert first.grad is None


def test_gains_biases_and_embeddings_are_no_matrices():
    model = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(3, 4))
    model[3].weight = model[0].weight
    matrices, others = split_parameters(model)
    assert [p is model[1].weight for p in matrices] == [True]
    assert len(others) == 5


def test_specs_know_the_optimizers_by_name():
    assert tuple(OPTIMIZERS) == OPTIMIZER_NAMES


def test_an_optimizer_that_is_none_is_refused():
    with pytest.raises(InputError, match="Unknown optimizer 'adam'.*Known: sgd, adamw, muon"):
        optimizer_of(tiny_network(), dataclasses.replace(PLAN, optimizer="adam"))


def test_decay_may_spare_what_is_no_matrix():
    model = tiny_network()
    every = optimizer_of(model, PLAN).param_groups
    decayed, spared = optimizer_of(
        model, dataclasses.replace(PLAN, decay_spares="vectors")
    ).param_groups
    assert [group["weight_decay"] for group in every] == [1e-4]
    assert {id(p) for p in decayed["params"]} == {id(model[0].weight), id(model[4].weight)}
    assert (decayed["weight_decay"], spared["weight_decay"]) == (1e-4, 0.0)
    assert len(decayed["params"]) + len(spared["params"]) == len(list(model.parameters()))
