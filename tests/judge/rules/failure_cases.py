"""The written-up failures that can run: each builds and checks a sick model, or a healthy twin.

Numbers are those of the cases. `found` names rules of which at least one must fire; `quiet` cases
must give no error.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset
from toy import (
    batches,
    fit,
    images,
    move_parameters,
    network,
    norms,
    shifted_set,
    train_set,
    trained,
)

from normscope.commands.check import check, check_loader, check_state_dict
from normscope.commands.loop_check import LoopCheck
from normscope.judge.check_report import CheckReport
from normscope.mend import fold


@dataclass(frozen=True)
class Case:
    number: int
    cause: str
    found: frozenset[str]
    quiet: bool
    run: Callable[[], CheckReport]

    def __str__(self) -> str:
        return f"{self.number}-{self.cause}-{self.run.__name__.strip('_')}"


CASES: list[Case] = []


def case(number: int, cause: str, *found: str, quiet: bool = False):
    def enter(run: Callable[[], CheckReport]) -> Callable[[], CheckReport]:
        CASES.append(Case(number, cause, frozenset(found), quiet, run))
        return run

    return enter


def shifted_batches(k=8):
    return batches(k, 64, *shifted_set())


# -- A: modes


@case(1, "A1", "NS501", "NS502")
def evaluated_in_train_mode():
    model = trained().train()
    x, _ = shifted_set()
    with torch.no_grad():
        for part in x.split(100):
            model(part)
    return check(model.eval(), batches())


@case(3, "A1", "NS303")
def attacked_in_train_mode():
    return check(trained().train())


@case(5, "A1", quiet=True)
def train_false_is_eval():
    return check(trained().train(False), batches())


@case(10, "A3", "NS501")
def train_forgotten_after_validation():
    model = fit(network(), 30).eval()
    return check(fit(model, 120, mode="keep"), batches())


@case(12, "A3", quiet=True)
def no_layer_that_has_modes():
    return check(nn.Sequential(nn.Linear(4, 4)).eval())


# -- B: small batches


@case(13, "B1", "NS601")
def last_batch_of_one():
    x, y = train_set()
    loader = DataLoader(TensorDataset(x[:65], y[:65]), batch_size=64)
    return check(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(1)).train(), loader=loader)


@case(13, "B1", "NS506")
def last_batch_of_one_in_the_batches():
    x, _ = train_set()
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(1)).train()
    return check(model, [x[:64], x[64:65]])


@case(15, "B1", "NS601")
def devices_split_a_batch_to_one():
    return check_loader(DataLoader(TensorDataset(torch.zeros(26)), batch_size=16), devices=4)


@case(17, "B1", "NS210")
def one_row_without_statistics():
    return check(nn.BatchNorm1d(3, track_running_stats=False).eval())


@case(18, "B2", "NS212")
def group_norm_of_one_value():
    return check(nn.Sequential(nn.GroupNorm(16, 16)), [torch.randn(8, 16, 1, 1)])


@case(18, "B2", "NS212")
def layer_norm_of_one_value():
    return check(nn.LayerNorm(1))


@case(20, "B2", "NS506")
def one_image_pooled():
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.AdaptiveAvgPool2d(1)).train()
    return check(model, [torch.randn(1, 3, 16, 16)])


@case(21, "B3", "NS506", "NS513")
def trained_with_two():
    return check(fit(network(), 100, batch=2, lr=0.02), batches(16, 2))


@case(23, "B3", "NS506", "NS513")
def batch_of_two_is_noise():
    return check(trained().train(), batches(16, 2))


# -- C: devices


@case(26, "C1", "NS602")
def one_image_per_device():
    loader = DataLoader(TensorDataset(*train_set()), batch_size=1)
    return check(trained().train(), loader=loader, world_size=8)


@case(28, "C1", "NS702")
def custom_layer_converted():
    class BiasFree(nn.BatchNorm2d):
        pass

    custom = nn.Sequential(nn.Conv2d(1, 4, 3), BiasFree(4))
    converted = nn.Sequential(copy.deepcopy(custom[0]), nn.SyncBatchNorm(4))
    return check(custom, other=converted)


# -- D: settings and places


@case(35, "D1", "NS201")
def momentum_of_another_framework():
    return check(network(momentum=0.99))


@case(37, "D1", "NS201")
def bad_momentum_hidden_by_a_freeze():
    model = trained().train()
    for layer in norms(model):
        layer.eval().momentum = 0.999
        layer.requires_grad_(False)
    return check(model)


@case(39, "D1", "NS204")
def momentum_none():
    return check(fit(network(momentum=None), 20))


@case(41, "D2", "NS206")
def eps_for_momentum():
    return check(nn.Sequential(nn.BatchNorm2d(128, 0.8)))


@case(43, "D2", "NS702", "NS703")
def eps_of_another_framework():
    other = trained()
    norms(other)[0].eps = 1e-3
    return check(trained(), batches(4), other=other)


@case(45, "D2", "NS102")
def eps_subtracted_from_variance():
    model = trained()
    norms(model)[0].running_var[0] = 1e-7 - 1e-5
    return check(model)


@case(48, "D3", "NS209")
def instance_norm_with_averages():
    return check(nn.Sequential(nn.InstanceNorm2d(3, track_running_stats=True)))


class _FromSequence(nn.Module):
    def __init__(self, features: int):
        super().__init__()
        self.embed = nn.Linear(6, features)
        self.norm = nn.BatchNorm1d(features)

    def forward(self, x):
        return self.norm(self.embed(x))


@case(49, "D4", "NS512")
def batch_norm_on_sequences_behind_a_linear_layer():
    return check(_FromSequence(16), [torch.randn(8, 16, 6) for _ in range(3)])


@case(49, "D4", "NS512")
def batch_norm_on_sequences():
    scaled = [torch.randn(64, 16, 16) * torch.arange(1, 17.0) for _ in range(3)]
    return check(nn.Sequential(nn.BatchNorm1d(16)), scaled)


@case(50, "D5", "NS404")
def bias_before_the_layer():
    return check(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), [torch.randn(8, 3, 8, 8)])


@case(52, "D6", "NS402")
def decayed():
    model = trained()
    return check(model, optimizer=torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.05))


@case(53, "D7", "NS405")
def dropout_before():
    model = nn.Sequential(nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 64), nn.BatchNorm1d(64))
    for _ in range(100):
        model(torch.randn(128, 64))
    return check(model.eval(), [torch.randn(128, 64) for _ in range(8)])


@case(56, "D8", quiet=True)
def zero_gain_at_the_start():
    layer = nn.BatchNorm2d(8)
    nn.init.zeros_(layer.weight)
    return check(layer)


@case(58, "D8", "NS401")
def parameters_filtered_by_dimension():
    model = trained()
    return check(
        model, optimizer=torch.optim.SGD([p for p in model.parameters() if p.dim() > 1], 0.1)
    )


# -- E: state


@case(59, "E1", "NS103", "NS501")
def only_parameters_saved():
    fresh = network()
    fresh.load_state_dict(dict(trained().named_parameters()), strict=False)
    return check(fresh.eval(), batches())


@case(59, "E1", "NS704")
def only_parameters_in_the_checkpoint():
    return check_state_dict(dict(trained().named_parameters()), network())


@case(61, "E1", "NS704")
def statistics_left_out():
    return check_state_dict(
        {k: v for k, v in trained().state_dict().items() if "running" not in k}, network()
    )


@case(63, "E1", quiet=True)
def only_the_counter_is_missing():
    state = {k: v for k, v in trained().state_dict().items() if "num_batches" not in k}
    return check_state_dict(state, network())


@case(63, "E1", quiet=True)
def loaded_without_the_counter():
    state = {k: v for k, v in trained().state_dict().items() if "num_batches" not in k}
    model = network()
    model.load_state_dict(state, strict=False)
    return check(model.eval(), batches())


def _averaged(steps=150, share=0.03, start=None):
    average = copy.deepcopy(start) if start is not None else network()
    live = fit(
        copy.deepcopy(average), steps, after=lambda m, step: move_parameters(average, m, share)
    )
    return average.eval(), live.eval()


@case(65, "E2", "NS103", "NS501")
def averaged_parameters_only():
    return check(_averaged()[0], batches())


@case(65, "E2", "NS701")
def averaged_parameters_only_beside_the_live_model():
    average, live = _averaged()
    return check(average, other=live)


@case(67, "E2", "NS701", "NS103")
def average_in_eval_mode():
    average, live = _averaged(100, 0.05)
    return check(average, batches(), other=live)


@case(69, "E2", "NS701")
def target_network_without_statistics():
    target = network()
    move_parameters(target, trained(), 0.5)
    return check(target, other=trained())


@case(71, "E3", "NS104")
def reset_with_momentum_zero():
    model = trained().train()
    for layer in norms(model):
        layer.reset_running_stats()
        layer.momentum = 0.0
    x, _ = train_set()
    for part in x[:640].split(64):
        model(part)
    return check(model.eval(), batches())


@case(77, "E4", "NS501", "NS502")
def federated_parameters_only():
    first, second = fit(network(), 80), fit(network(), 80, x=shifted_set()[0], y=shifted_set()[1])
    merged = copy.deepcopy(first)
    move_parameters(merged, second, 0.5)
    return check(merged.eval(), batches())


@case(77, "E4", "NS701")
def federated_with_one_clients_statistics():
    first, second = fit(network(), 80), fit(network(), 80, seed=5)
    merged = copy.deepcopy(first)
    move_parameters(merged, second, 0.5)
    return check(merged.eval(), other=first)


@case(79, "E4", "NS103", "NS501")
def received_parameters_only():
    received = network()
    move_parameters(received, trained(), 1.0)
    return check(received.eval(), batches())


# -- F: freezing


@case(80, "F1", "NS304", quiet=True)
def gradients_off_is_no_freeze():
    return check(trained().requires_grad_(False).train())


@case(82, "F1", "NS305")
def freeze_undone_by_train():
    model = trained().train()
    norms(model)[0].eval()
    return check(model)


@case(87, "F2", "NS306")
def affine_still_trains():
    model = trained().train()
    norms(model)[0].eval()
    return check(model)


@case(89, "F2", "NS203")
def momentum_zero_is_no_freeze():
    model = trained().train()
    for layer in norms(model):
        layer.momentum = 0.0
    return check(model)


@case(89, "F2", "NS501")
def momentum_zero_seen_in_the_batches():
    model = trained()
    for layer in norms(model):
        layer.momentum = 0.0
    x, y = shifted_set()
    return check(fit(model, 60, x=x, y=y).eval(), shifted_batches())


@case(90, "F3", quiet=True)
def frozen_from_scratch():
    return check(fit(network(), 200, mode="eval"), batches())


@case(92, "F3", quiet=True)
def scored_untrained():
    return check(network().eval(), batches(4))


# -- G: repeated forwards


class _Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        return self.norm(x + 2) - self.norm(x - 2)


@case(101, "G3", "NS511")
def one_layer_for_two_branches():
    return check(_Siamese(), [torch.randn(64, 4) for _ in range(4)])


@case(103, "G3", "NS504")
def two_forwards_are_not_one():
    pairs = [x for pair in zip(batches(4), shifted_batches(4), strict=True) for x in pair]
    return check(trained().train(), pairs)


# -- H: what is in a batch


@case(104, "H1", "NS504", quiet=True)
def real_and_fake():
    pairs = [x for pair in zip(batches(8), shifted_batches(8), strict=True) for x in pair]
    return check(network().train(), [x for x, _ in pairs])


@case(111, "H3", "NS504", "NS501")
def domains_take_turns():
    x, _ = shifted_set()

    def other_domain(model, step):
        with torch.no_grad():
            model(x[torch.randint(0, 1000, (64,), generator=torch.Generator().manual_seed(step))])

    return check(fit(network(), 100, after=other_domain).eval(), batches())


@case(113, "H3", quiet=True)
def statistics_of_the_test_batch_on_purpose():
    return check(trained().train(), shifted_batches())


@case(114, "H4", "NS504")
def tasks_as_batches():
    return check(trained().train(), [images(64, seed, shift=seed - 2.0) for seed in range(5)])


@case(115, "H5", "NS103")
def train_mode_never_set():
    return check(fit(network().eval(), 60, mode="eval"))


@case(118, "H7", "NS505", "NS604")
def read_class_by_class():
    x, y = images(1000, 2)
    order = y.argsort()
    return check(trained().train(), [(x[i], y[i]) for i in order.split(64)])


@case(120, "H7", "NS604")
def validation_not_shuffled():
    x, y = images(1000, 2)
    order = y.argsort()
    return check_loader(DataLoader(TensorDataset(x[order], y[order]), batch_size=20))


@case(120, "H7", "NS504")
def class_pure_training():
    x, y = train_set()
    pure = [(x[y == k % 10][:64], y[y == k % 10][:64]) for k in range(12)]
    return check(fit(network(), 100, by_class=True), pure)


@case(122, "H8", "NS510")
def padded_sequences():
    generator = torch.Generator().manual_seed(0)

    def batch():
        lengths = torch.randint(5, 51, (16,), generator=generator)
        real = (torch.arange(50) < lengths[:, None]).float()
        return (torch.randn(16, 3, 50, generator=generator) + 3) * real[:, None]

    model = nn.Sequential(nn.Conv1d(3, 8, 3, padding=1), nn.BatchNorm1d(8))
    return check(model, [batch() for _ in range(6)])


# -- I: numbers


@case(125, "I1", "NS101")
def one_overflow_poisons():
    layer = nn.BatchNorm2d(4)
    x = torch.ones(1, 4, 20, 20)
    x[0, 1, 3, 3] = float("inf")
    layer(x)
    for _ in range(20):
        layer(torch.randn(4, 4, 5, 5))
    return check(layer)


@case(127, "I1", "NS101")
def statistics_are_nan():
    model = trained()
    norms(model)[1].running_var.fill_(float("nan"))
    return check_state_dict(model.state_dict())


@case(129, "I1", "NS506")
def one_value_per_channel():
    return check(nn.Sequential(nn.BatchNorm1d(3)), [torch.randn(1, 3)])


@case(130, "I2", "NS110", "NS101")
def variance_beyond_half():
    layer = nn.BatchNorm1d(2).eval()
    layer.running_var.fill_(7e4)
    return check(layer.half())


@case(130, "I2", "NS110")
def variance_beyond_half_before_the_export():
    layer = nn.BatchNorm1d(2).eval()
    layer.running_var.fill_(7e4)
    return check(layer, export=True)


@case(132, "I2", "NS110")
def eps_rounds_to_zero():
    return check(nn.LayerNorm(8, eps=1e-12).half())


@case(134, "I3", "NS108")
def constant_with_an_offset():
    return check(nn.BatchNorm2d(1), [torch.full((2, 1, 10, 10), 1.2345e10)])


@case(136, "I3", "NS102")
def negative_variance_converted():
    state = trained().state_dict()
    state["1.running_var"][3] = -1e-5
    return check_state_dict(state)


@case(137, "I4", "NS501", "NS105")
def statistics_lag():
    return check(fit(network(), 3, lr=0.2).eval(), batches())


@case(139, "I4", "NS501", "NS105")
def few_steps():
    return check(fit(network(), 5).eval(), batches())


@case(141, "I5", "NS506")
def three_values():
    return check(nn.Sequential(nn.BatchNorm1d(1, momentum=1.0)), [torch.randn(3, 1)])


# -- J: export


@case(142, "J1", "NS210")
def predictions_depend_on_the_batch():
    return check(
        nn.BatchNorm1d(3, track_running_stats=False).eval(), [torch.randn(8, 3) for _ in range(3)]
    )


@case(144, "J1", "NS706")
def nothing_to_fold():
    return check(
        nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False)).eval(),
        export=True,
    )


@case(146, "J2", "NS706")
def exported_in_train_mode():
    return check(nn.BatchNorm1d(3), export=True)


class _Functional(nn.Module):
    """What a conversion leaves behind: batch statistics in eval mode, outside of any layer."""

    def __init__(self, features: int):
        super().__init__()
        self.linear = nn.Linear(features, 4)

    def forward(self, x):
        return F.batch_norm(self.linear(x), None, None, training=True)


@case(148, "J2", "NS301", "NS503")
def converted_layer_stays_in_train_mode():
    return check(_Functional(6).eval(), [torch.randn(16, 6) for _ in range(3)])


@case(150, "J2", "NS703")
def compared_in_train_mode():
    model = trained()
    fused = copy.deepcopy(model).train()
    return check(model, batches(4), other=lambda x: fused(x))


@case(152, "J2", "NS204")
def compiled_with_momentum_none():
    model = network(momentum=None)
    return check(model.train())


# -- reports that are no faults: nothing here is an error


@case(0, "timm-106", quiet=True)
def average_with_copied_buffers():
    live = trained()
    average = copy.deepcopy(live)
    for parameter in average.parameters():
        parameter.data.mul_(1.001)
    report = check(average, batches(4), other=live)
    assert not report.warnings, report.text()
    return report


@case(0, "mmcv-747", quiet=True)
def correct_fusion():
    return check(trained(), batches(4), other=fold(trained()))


@case(0, "KAIR-4", "NS404", quiet=True)
def harmless_bias():
    return check(fit(network(bias=True), 60), batches(4))


@case(0, "katerakelly-5", "NS201", quiet=True)
def transductive_momentum():
    return check(
        network(momentum=1.0).train(), [images(16, seed, shift=seed - 2.0) for seed in range(5)]
    )


@case(0, "cbfinn-37", "NS210", quiet=True)
def transductive_without_statistics():
    return check(
        network(track_running_stats=False).eval(),
        [images(16, seed, shift=seed - 2.0) for seed in range(5)],
    )


@case(0, "moco-46", quiet=True)
def synchronized_by_design():
    return check(
        nn.SyncBatchNorm.convert_sync_batchnorm(trained()).train(), batches(4), world_size=4
    )


@case(0, "opacus-315", quiet=True)
def frozen_for_privacy():
    model = trained().train()
    for layer in norms(model):
        layer.eval().requires_grad_(False)
    return check(model, batches(4))


@case(0, "pix2pix", "NS303", quiet=True)
def batch_statistics_at_test_by_design():
    return check(trained().train(), batches(4, 8))


# -- loops: what a model cannot tell afterwards


def in_a_loop(
    step: Callable[[nn.Module, Any, int], None], steps=6, model=None, train=True
) -> CheckReport:
    """`step(model, optimizer, number)` is one step of a loop, which is judged as it runs."""
    model = (trained() if model is None else model).train(train)
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad] or model.parameters(), 0.01
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with LoopCheck(model, optimizer) as loop:
            for number in range(steps):
                step(model, optimizer, number)
    return CheckReport(findings=tuple(loop.findings))


def learn(model: nn.Module, optimizer: Any, number: int, parts: int = 1) -> None:
    x, y = train_set()
    optimizer.zero_grad()
    for part in range(parts):
        start = 64 * (number + part)
        F.cross_entropy(model(x[start : start + 32]), y[start : start + 32]).backward()
    optimizer.step()


@case(6, "A2", "NS802")
def validation_in_train_mode():
    def step(model, optimizer, number):
        learn(model, optimizer, number)
        with torch.no_grad():
            model(images(1000, 2)[0][:64])

    return in_a_loop(step)


@case(8, "A2", "NS802")
def dummy_forward_of_a_tool():
    def step(model, optimizer, number):
        if number == 0:
            with torch.no_grad():
                model(torch.randn(2, 1, 8, 8))
        learn(model, optimizer, number)

    return in_a_loop(step)


@case(10, "A3", "NS803")
def train_forgotten_in_the_loop():
    def step(model, optimizer, number):
        learn(model, optimizer, number)
        if number == 2:
            model.eval()

    return in_a_loop(step)


@case(25, "B4", "NS806")
def accumulated_batches():
    return in_a_loop(lambda model, optimizer, number: learn(model, optimizer, number, parts=4))


@case(84, "F1", "NS804")
def validation_thaws_a_frozen_layer():
    model = trained().train()

    def step(model, optimizer, number):
        if number == 0:
            return
        learn(model, optimizer, number)
        model.eval()
        model.train()

    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    norms(model)[0].eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with LoopCheck(model, optimizer) as loop:
            for number in range(4):
                step(model, optimizer, number)
    return CheckReport(findings=tuple(loop.findings))


@case(93, "F4", "NS802", quiet=True)
def teacher_in_train_mode_on_purpose():
    def step(model, optimizer, number):
        with torch.no_grad():
            model(train_set()[0][:32])
        learn(model, optimizer, number)

    return in_a_loop(step)


@case(95, "F4", "NS801")
def attack_in_train_mode():
    def step(model, optimizer, number):
        x, y = train_set()
        z = x[:32].clone().requires_grad_()
        for _ in range(5):
            z = (
                z + 0.01 * torch.autograd.grad(F.cross_entropy(model(z), y[:32]), z)[0].sign()
            ).detach()
            z.requires_grad_()
        learn(model, optimizer, number)

    return in_a_loop(step)


class _Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = network()

    def forward(self, x):
        return checkpoint(self.body, x, use_reentrant=False)


@case(96, "G1", "NS801")
def activation_checkpointing():
    return in_a_loop(learn, model=_Checkpointed())


@case(99, "G2", "NS801")
def two_forwards_on_different_weights():
    def step(model, optimizer, number):
        x, y = train_set()
        optimizer.zero_grad()
        F.cross_entropy(model(x[:32]), y[:32]).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(parameter.grad, alpha=0.05)
        learn(model, optimizer, number)

    return in_a_loop(step)


@case(111, "H3", "NS802")
def domains_forwarded_apart():
    def step(model, optimizer, number):
        learn(model, optimizer, number)
        with torch.no_grad():
            model(shifted_set()[0][:64])

    return in_a_loop(step)


@case(115, "H5", "NS803")
def trained_without_train_mode():
    return in_a_loop(learn, model=network(), train=False)


@case(0, "none", quiet=True)
def an_ordinary_loop_with_checks_and_validation():
    def step(model, optimizer, number):
        learn(model, optimizer, number)
        model.eval()
        with torch.no_grad():
            model(train_set()[0][:32])
        check(model, batches(3))
        model.train()

    report = in_a_loop(step)
    assert not report.findings, report.text()
    return report
