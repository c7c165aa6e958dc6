"""Every rule against records by hand: a sick one, a healthy one, one it does not apply to."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from normscope.judge.check_report import CheckReport, judge
from normscope.judge.findings import Finding
from normscope.judge.rules import rules
from normscope.records.examination import (
    Examination,
    Forward,
    History,
    Keys,
    Layer,
    LayerHistory,
    Loader,
    Measured,
    Optimizer,
    Pair,
    PairedLayer,
    Place,
    Recognition,
    UnknownNorm,
)
from normscope.records.examination_json import from_json, to_json

C = 8
RAMP = np.linspace(0.5, 1.5, C)


def norm(**changes) -> Layer:
    """A healthy, trained BatchNorm2d(8) in eval mode."""
    facts = {
        "name": "bn",
        "features": C,
        "eps": 1e-5,
        "momentum": 0.1,
        "tracks": True,
        "live": True,
        "affine_names": ("weight", "bias"),
        "weight": RAMP,
        "bias": RAMP - 1,
        "running_mean": RAMP - 1,
        "running_var": RAMP,
        "updates": 1000,
        "parameter_dtype": "float32",
        "statistics_dtype": "float32",
        "training": False,
        "training_after_eval": False,
        "training_after_train": True,
        "trainable": True,
        "scope_trainable": True,
    }
    return Layer(**(facts | changes))


def layer_norm(**changes) -> Layer:
    facts = {
        "name": "ln",
        "type": "LayerNorm",
        "kind": "layer",
        "features": 64,
        "normalized_dims": 1,
        "eps": 1e-5,
        "weight": np.ones(64),
        "bias": np.zeros(64),
        "affine_names": ("weight", "bias"),
        "parameter_dtype": "float32",
        "training": False,
        "trainable": True,
    }
    return Layer(**(facts | changes))


def heads(name: str, width: int, shape: tuple[int, ...]) -> Layer:
    return layer_norm(name=name, features=width, place=Place(input_shape=shape))


def stream(tokens: bool, head: str = "head", readers: tuple[str, ...] = ("a", "b")) -> Examination:
    layers = tuple(layer_norm(name=name) for name in ("a", "b"))
    facts = {"bare_head": head, "stream_readers": readers, "stream_of_tokens": tokens}
    return one(layers=layers, forward=forward(**facts))


def measured(**changes) -> Measured:
    """16 batches of 64 images of 8x8 that agree with `norm`."""
    facts = {
        "batches": 16,
        "samples": 64,
        "values": 4096,
        "mean": RAMP - 1,
        "var": RAMP,
        "mean_noise": np.full(C, 0.01),
        "var_noise": np.full(C, 0.01),
        "eval_mean": RAMP - 1,
        "eval_var": RAMP,
        "heterogeneity": np.ones(C),
        "input_spread": 1.0,
        "output_spread": 1.0,
        "alone_input": 0.0,
        "alone_output": 0.0,
    }
    return Measured(**(facts | changes))


def forward(**changes) -> Forward:
    facts = {
        "batch_sizes": (64,) * 16,
        "device": "cpu",
        "repeat_difference": 0.0,
        "companions_difference": 1e-7,
        "samples": 1024,
        "gap": 0.1,
        "composition_noise": 0.1,
        "disagreement": 0.01,
        "composition_disagreement": 0.01,
        "has_targets": True,
        "eval_correct": 0.95,
        "batch_correct": 0.95,
        "remixed_correct": 0.95,
        "classes": 10,
        "labels_in_batches": 1.0,
        "label_freedom": 135,
    }
    return Forward(**(facts | changes))


def one(layer: Layer | None = None, **changes) -> Examination:
    """An examination of a model in eval mode with one layer and healthy batches."""
    layers = (
        norm(measured=measured(), place=Place(input_shape=(64, C, 8, 8)))
        if layer is None
        else layer,
    )
    return Examination(
        **({"model": "Net", "training": False, "layers": layers, "forward": forward()} | changes)
    )


def seen(**changes) -> Examination:
    """The same, with changes to its layer."""
    base = norm(measured=measured(), place=Place(input_shape=(64, C, 8, 8)))
    return one(replace(base, **changes))


def pair(layer: PairedLayer | None = None, **changes) -> Examination:
    shared = layer or PairedLayer(
        name="bn", type="BatchNorm2d", other_type="BatchNorm2d", statistics_equal=False,
        affine_equal=False,
        mean_distance=0.01, var_distance=0.01, updates=10, other_updates=10, eps=1e-5,
        other_eps=1e-5,
    )  # fmt: skip
    facts = {"layers": (shared,), "weight_distance": 0.01, "output_difference": 1e-6}
    return one(pair=Pair(**(facts | changes)))


def paired(**changes) -> PairedLayer:
    facts = {
        "name": "bn",
        "type": "BatchNorm2d",
        "other_type": "BatchNorm2d",
        "statistics_equal": False,
        "eps": 1e-5,
        "other_eps": 1e-5,
    }
    return PairedLayer(**(facts | changes))


def history(accumulation=None, batches=None, penalties=0, others=(), **changes) -> Examination:
    """100 steps of one layer."""
    facts = {"name": "bn", "steps": 100, "updates": 100, "trainable": True}
    layers = (LayerHistory(**(facts | changes)), *others)
    return one(
        history=History(
            layers=layers,
            steps=100,
            accumulation=accumulation,
            batches=batches,
            penalties=penalties,
        )
    )


def streams(rms) -> Examination:
    """Eight layers, beside which the residual stream has this root mean square by depth."""
    layers = [
        LayerHistory(name=f"norm{depth}", kind="layer", stream=(rms(depth), 9.0, 3.0, 0.1))
        for depth in range(8)
    ]
    return one(norm(kind="layer"), history=History(layers=tuple(layers), steps=100))


def cosines(*beside: float) -> Examination:
    """Layers of a transformer, beside which tokens have these cosines by depth."""
    layers = [
        LayerHistory(name=f"norm{depth}", kind="layer", token_cosine=cosine)
        for depth, cosine in enumerate(beside)
    ]
    return one(norm(kind="layer"), history=History(layers=tuple(layers), steps=100))


def loader(**changes) -> Examination:
    facts = {
        "type": "DataLoader",
        "batch_size": 64,
        "samples": 640,
        "drop_last": False,
        "sampler": "RandomSampler",
        "shuffles": True,
    }
    return Examination(source="loader", loader=Loader(**(facts | changes)))


def state(**changes) -> Examination:
    return Examination(source="state_dict", layers=(norm(training=None),), keys=Keys(**changes))


RAMP64 = np.linspace(0.95, 1.05, 64)


def own_rms(weight=RAMP64, bias=None, **facts) -> Layer:
    """Two of them would be a model: a library's own RMS normalization, as a call showed it."""
    layer = layer_norm(type="OwnNorm", kind="rms", foreign=True, weight=weight, bias=bias)
    return replace(layer, measured=measured(**facts))


ZERO, ONE = np.zeros(C), np.ones(C)
NEW = {"running_mean": ZERO, "running_var": ONE}
UNTRAINED = dict(NEW, updates=0, weight=ONE, bias=ZERO)
HEALTHY = one()
ADAMW = Optimizer(type="AdamW", holds=2)
NO_NORM = Examination(model="Net", forward=forward())
ONLY_LAYER_NORM = one(layer_norm())
SPOILED = np.where(np.arange(C) == 2, np.nan, RAMP)
SMALL = np.where(np.arange(C) == 2, 1e-9, RAMP)
LEFT = 0.9**5  # of the initial statistics, after five updates with momentum 0.1
MIXED = {
    "updates": 5,
    "running_mean": (1 - LEFT) * (RAMP - 1),
    "running_var": (1 - LEFT) * RAMP + LEFT,
}
FEW_BUT_WIDE = {
    "updates": 5,
    "running_var": RAMP + 1,
    "measured": measured(var=RAMP + 1),
}  # recalibrated on five batches


@dataclass(frozen=True)
class Row:
    sick: Examination
    severity: str
    healthy: Examination = HEALTHY
    not_applicable: Examination = NO_NORM


CALLED_NORM = UnknownNorm(name="n", type="PowerNorm", reason="called so")
CALLED_FUNCTION = UnknownNorm(name="", type="Net", reason="F.layer_norm", function=True)


def doubted(by: str, explained: bool | None) -> Examination:
    return one(layer_norm(recognition=Recognition(by=by, explained=explained)))


TABLE: dict[str, list[Row]] = {
    "NS001": [
        Row(one(unknown=(CALLED_NORM,)), "info"),
        Row(one(unknown=(CALLED_FUNCTION,)), "info"),
        Row(doubted("class name", False), "info", doubted("class name", True)),
        Row(doubted("weight and epsilon", False), "info", doubted("type", False)),
    ],
    "NS101": [Row(seen(running_var=SPOILED), "error"), Row(seen(weight=SPOILED), "error")],
    "NS102": [Row(seen(running_var=RAMP - 0.6), "error", not_applicable=ONLY_LAYER_NORM)],
    "NS103": [
        Row(seen(**NEW, updates=0), "warning", seen(**UNTRAINED)),
        Row(one(layers=(norm(), norm(name="b", **NEW, updates=0, place=Place())), forward=None),
            "error"),
        Row(one(layers=(norm(), norm(name="b", **NEW, updates=0)),), "info"),
        Row(one(norm(**NEW, updates=0), training=True), "info"),
    ],
    "NS104": [Row(seen(**NEW), "error", seen(**UNTRAINED))],
    "NS105": [
        Row(seen(**MIXED), "warning", seen(updates=5, running_var=SMALL)),
        Row(seen(**MIXED, measured=None), "warning", seen(**FEW_BUT_WIDE)),
    ],
    "NS106": [Row(seen(running_var=SMALL), "warning", seen(running_var=SMALL, weight=SMALL))],
    "NS107": [Row(seen(running_var=np.where(np.arange(C) == 2, 1e6, RAMP)), "warning")],
    "NS108": [
        Row(seen(running_mean=RAMP * 1e4), "warning", seen(running_mean=RAMP * 100)),
        Row(seen(measured=measured(eval_mean=RAMP * 1e6)), "warning"),
        Row(seen(running_mean=RAMP * 100, place=Place(input_dtype="bfloat16")), "warning"),
    ],
    "NS109": [
        Row(seen(statistics_dtype="bfloat16", training=True), "warning"),
        Row(seen(statistics_dtype="float16"), "info"),
    ],
    "NS110": [
        Row(one(layer_norm(eps=1e-12, parameter_dtype="float16")), "error",
            one(layer_norm(eps=1e-12))),
        Row(seen(running_var=RAMP * 1e5), "info"),
        Row(replace(seen(running_var=RAMP * 1e5), export=True), "warning"),
    ],
    "NS201": [Row(seen(momentum=0.99), "warning"),
              Row(replace(seen(momentum=0.99), training=True), "info")],
    "NS202": [Row(seen(momentum=1.5), "error", seen(momentum=1.0)),
              Row(seen(momentum=-0.1), "error")],
    "NS203": [Row(seen(momentum=0.0, training=True), "warning", seen(momentum=0.0))],
    "NS204": [Row(seen(momentum=None, cumulative=True, training=True), "info",
                  seen(momentum=None, cumulative=True))],
    "NS205": [
        Row(one(layer_norm(eps=0.0)), "error"),
        Row(seen(eps=0.0), "warning"),
        Row(seen(eps=-1e-5), "error"),
        Row(seen(eps=0.0, training=True), "error"),
    ],
    "NS206": [Row(seen(eps=0.8), "error", seen(eps=1e-3)),
              Row(one(layer_norm(eps=0.02)), "warning")],
    "NS207": [
        Row(seen(running_var=RAMP * 1e-6), "warning", seen(running_var=RAMP * 1e-3)),
        Row(seen(running_var=RAMP * 5e-5), "info"),
        Row(one(layer_norm(measured=measured(set_var=(1e-7, 1e-6, 1e-5)))), "info"),
        Row(one(layer_norm(bias=np.arange(64), measured=measured(set_var=(1e-7, 1e-6, 1e-5)))),
            "warning"),
    ],
    "NS208": [Row(one(layers=(norm(), norm(name="b"), norm(name="c", eps=1e-3))), "info")],
    "NS209": [
        Row(one(norm(kind="instance", type="InstanceNorm2d")), "warning",
            one(norm(kind="instance", tracks=False, running_mean=None, running_var=None)), HEALTHY)
    ],
    "NS210": [
        Row(seen(running_mean=None, running_var=None, tracks=False), "warning",
            not_applicable=ONLY_LAYER_NORM),
        Row(seen(running_mean=None, running_var=None, tracks=False, training=True), "info"),
    ],
    "NS211": [
        Row(seen(tracks=False), "warning", seen(tracks=False, running_mean=None, running_var=None)),
        Row(seen(running_mean=None, running_var=None), "warning"),
    ],
    "NS212": [
        Row(one(layer_norm(measured=measured(values=2))), "error", ONLY_LAYER_NORM, HEALTHY),
        Row(one(layer_norm(features=1)), "error"),
        Row(one(layer_norm(measured=measured(values=4))), "warning"),
        Row(one(layer_norm(measured=measured(values=12))), "info"),
        Row(one(layer_norm(kind="rms", features=2)), "warning",
            one(layer_norm(kind="rms", features=16))),
    ],
    "NS301": [
        Row(seen(training_after_eval=True), "error"),
        Row(replace(NO_NORM, forward=forward(functional_batch_norm=("head",))), "error"),
    ],
    "NS302": [Row(seen(training=True), "warning", replace(seen(training=True), training=True))],
    "NS303": [Row(replace(seen(training=True), training=True), "info",
                  not_applicable=ONLY_LAYER_NORM)],
    "NS304": [
        Row(seen(training=True, trainable=False, scope_trainable=False), "warning",
            seen(training=False, trainable=False, scope_trainable=False)),
        Row(seen(training=True, trainable=None, scope_trainable=False), "warning",
            seen(training=True, trainable=False, scope_trainable=True, bias=0 * RAMP)),
        Row(seen(training=True, trainable=False, scope_trainable=True), "warning",
            seen(training=True, trainable=True, scope_trainable=True)),
    ],
    "NS305": [
        Row(replace(seen(), training=True), "warning",
            replace(seen(training_after_train=False), training=True)),
    ],
    "NS306": [Row(replace(seen(), training=True), "info",
                  replace(seen(trainable=False), training=True))],
    "NS401": [
        Row(replace(seen(optimized=False, scope_optimized=True),
                    optimizer=Optimizer(type="SGD", holds=9)), "warning",
            replace(seen(optimized=True, scope_optimized=True),
                    optimizer=Optimizer(type="SGD", holds=9))),
        Row(replace(seen(optimized=False, scope_optimized=False),
                    optimizer=Optimizer(type="SGD", holds=9)), "info"),
        Row(replace(HEALTHY, optimizer=Optimizer(type="SGD", holds=0)), "error"),
    ],
    "NS402": [
        Row(replace(seen(weight_decay=0.1), optimizer=Optimizer(type="SGD", holds=9)), "info",
            replace(seen(weight_decay=0.0), optimizer=Optimizer(type="SGD", holds=9)))
    ],
    "NS403": [
        Row(seen(weight=ZERO, updates=2000), "warning",
            seen(weight=ZERO, place=Place(added_to_a_shortcut=True))),
        Row(seen(weight=ZERO, updates=10), "warning"),
        Row(one(layer_norm(weight=np.zeros(64), place=Place())), "warning",
            one(layer_norm(weight=np.zeros(64), foreign=True, place=Place()))),
    ],
    "NS404": [
        Row(seen(place=Place(fed_by="conv", bias_before=True, sole_consumer=True)), "info",
            seen(place=Place(fed_by="conv", bias_before=True, sole_consumer=False))),
        Row(seen(place=Place(bias_before=True, sole_consumer=True)), "info",
            one(norm(kind="group", groups=2, place=Place(bias_before=True, sole_consumer=True)))),
    ],
    "NS405": [
        Row(seen(place=Place(dropout_before=0.5), measured=measured(dropout_ratio=2.0)), "warning",
            not_applicable=ONLY_LAYER_NORM),
        Row(seen(place=Place(dropout_before=0.1), measured=measured(dropout_ratio=1.05)), "info"),
    ],
    "NS406": [
        Row(one(layers=(norm(name="a"), norm(place=Place(fed_by="norm", fed_by_module="a")))),
            "info",
            one(layers=(layer_norm(name="a"), norm(place=Place(fed_by="norm", fed_by_module="a")))))
    ],
    "NS501": [
        Row(seen(running_mean=RAMP), "warning", not_applicable=ONLY_LAYER_NORM),
        Row(replace(seen(running_mean=RAMP), forward=forward(only_batch_correct=300)), "error"),
        Row(replace(seen(running_var=RAMP * 4, training=True), training=True,
                    forward=forward(only_batch_correct=300)), "warning"),
        Row(seen(running_mean=RAMP - 0.5), "warning",
            seen(running_mean=RAMP - 0.5, measured=measured(mean_noise=ONE))),
    ],
    "NS502": [
        Row(one(forward=forward(only_batch_correct=200, only_eval_correct=5)), "error",
            one(forward=forward(only_batch_correct=200, only_eval_correct=190)), ONLY_LAYER_NORM),
        Row(one(forward=forward(only_batch_correct=60)), "warning"),
        Row(one(forward=forward(has_targets=False, disagreement=0.5, gap=0.9)), "warning",
            one(forward=forward(has_targets=False, disagreement=0.5, gap=0.9,
                                composition_disagreement=0.5))),
    ],
    "NS503": [
        Row(replace(seen(measured=measured(alone_output=0.2)),
                    forward=forward(companions_difference=0.1)), "error",
            one(forward=forward(companions_difference=1e-3, reduced_precision=True))),
        Row(one(forward=forward(companions_difference=0.1)), "warning",
            one(forward=forward(companions_difference=0.1, repeat_difference=0.1))),
    ],
    "NS504": [
        Row(seen(measured=measured(heterogeneity=np.full(C, 50.0))), "warning",
            seen(measured=measured(heterogeneity=np.full(C, 2.0))), ONLY_LAYER_NORM)
    ],
    "NS505": [
        Row(one(forward=forward(only_given_correct=5, only_remixed_correct=200)), "warning",
            one(forward=forward(only_given_correct=200, only_remixed_correct=200)),
            ONLY_LAYER_NORM),
        Row(one(forward=forward(only_given_correct=200)), "warning"),
    ],
    "NS506": [
        Row(seen(training=True, measured=measured(values=1, samples=1)), "error",
            seen(training=True), ONLY_LAYER_NORM),
        Row(seen(training=True, measured=measured(values=2, samples=2)), "error"),
        Row(seen(training=True, measured=measured(values=400, samples=4)), "warning"),
        Row(seen(measured=measured(values=400, samples=4)), "info"),
        Row(seen(training=True, place=Place(pooled_next=True),
                 measured=measured(values=64, samples=1)), "error"),
    ],
    "NS507": [
        Row(seen(measured=measured(var=ZERO)), "warning",
            seen(weight=ZERO, measured=measured(var=ZERO))),
        Row(seen(measured=measured(var=np.where(np.arange(C) == 2, 0, RAMP))), "info"),
    ],
    "NS508": [
        Row(seen(measured=measured(output_spread=1e-5)), "error",
            seen(measured=measured(output_spread=1e-5, input_spread=0.0))),
        Row(seen(measured=measured(output_spread=9e-4, input_spread=0.1)), "error",
            seen(measured=measured(output_spread=9e-4, input_spread=1.1e-3))),  # a new network
    ],
    "NS509": [
        Row(seen(measured=measured(input_non_finite=3)), "error"),
        Row(seen(measured=measured(output_non_finite=3)), "error"),
    ],
    "NS510": [
        Row(seen(measured=measured(padding=0.4, padding_effect=0.9)), "warning",
            seen(measured=measured(padding=0.4, padding_effect=0.01))),
        Row(one(layer_norm(measured=measured(padding_seen=0.5))), "warning",
            one(layer_norm(measured=measured(padding_seen=0.001)))),
    ],
    "NS511": [
        Row(seen(measured=measured(call_mean=np.stack([ONE, -ONE]), call_var=np.stack([ONE, ONE]))),
            "warning",
            seen(measured=measured(call_mean=np.stack([ONE, ONE]), call_var=np.stack([ONE, ONE])))),
        Row(seen(measured=measured(call_mean=np.stack([ONE, ONE]),
                                   call_var=np.stack([ONE, 4 * ONE]))), "warning"),
    ],
    "NS517": [
        Row(one(layers=(heads("q_norm", 64, (4, 9, 64)), heads("k_norm", 8, (4, 9, 8, 8)))),
            "warning",
            one(layers=(heads("q_norm", 64, (4, 9, 64)), heads("k_norm", 16, (4, 9, 16)))),
            HEALTHY),
    ],
    "NS409": [
        Row(stream(True), "warning", stream(True, readers=("ln",)), HEALTHY),
        Row(stream(False), "info", stream(False, head="")),
    ],
    "NS512": [
        Row(seen(place=Place(fed_by="linear", features_last=True, input_shape=(4, 8, 8))),
            "warning",
            seen(place=Place(fed_by="conv", input_shape=(4, 8, 8)),
                 measured=measured(axis_spread=(8.0, 1.2)))),
        Row(seen(place=Place(input_shape=(4, 8, 8)), measured=measured(axis_spread=(1.2, 8.0))),
            "warning"),
        Row(seen(place=Place(fed_by="conv", features_scattered=True, input_shape=(64, C))),
            "warning"),
        Row(one(layer_norm(place=Place(fed_by="conv", input_shape=(4, 8, 64, 64)))), "warning",
            one(layer_norm(place=Place(fed_by="conv", axes_moved=True,
                                       input_shape=(4, 64, 64, 8))))),
    ],
    "NS513": [
        Row(replace(one(norm(training=True),
                        forward=forward(composition_noise=0.9, batch_sizes=(2,) * 16)),
                    training=True), "warning", not_applicable=ONLY_LAYER_NORM),
        Row(one(forward=forward(composition_noise=0.9)), "info"),
    ],
    "NS601": [
        Row(loader(samples=641), "warning", loader(samples=641, drop_last=True), one(layer_norm())),
        Row(replace(loader(samples=26, batch_size=16), devices=4), "warning",
            replace(loader(samples=26, batch_size=16), devices=2)),
        Row(one(norm(measured=measured(values=64)), loader=loader(samples=641).loader), "error"),
    ],
    "NS602": [
        Row(one(world_size=8, loader=loader(batch_size=4).loader), "warning",
            one(world_size=8, loader=loader(batch_size=32).loader),
            one(loader=loader(batch_size=4).loader)),
        Row(one(world_size=8, forward=forward(batch_sizes=(4, 4))), "warning",
            one(norm(sync=True), world_size=8)),
    ],
    "NS603": [
        Row(one(norm(sync=True, place=Place(unused_children=("act",))), world_size=2), "error",
            one(norm(sync=True), world_size=2), HEALTHY),
        Row(one(norm(sync=True)), "info"),
    ],
    "NS604": [
        Row(one(forward=forward(labels_in_batches=20.0)), "warning",
            not_applicable=ONLY_LAYER_NORM),
        Row(loader(shuffles=False, labels_in_batches=20.0, label_runs=80.0), "warning",
            loader(shuffles=False, labels_in_batches=1.0, label_runs=1.0)),
    ],
    "NS605": [Row(loader(shuffles=False), "info", loader(), ONLY_LAYER_NORM)],
    "NS606": [
        Row(replace(history(updates=200), broadcasts_buffers=True), "error",
            replace(history(updates=200, batches=200), broadcasts_buffers=True),
            history(updates=200)),
    ],
    "NS701": [
        Row(pair(paired(at_initialization=True)), "error", pair()),
        Row(pair(paired(mean_distance=2.0)), "warning"),
        Row(pair(paired(statistics_equal=True), weight_distance=0.6), "warning",
            pair(paired(statistics_equal=True), weight_distance=0.01)),
    ],
    "NS702": [
        Row(pair(paired(other_type="BiasFree"), output_difference=0.1), "warning",
            pair(paired(other_type="SyncBatchNorm"))),
        Row(pair(paired(other_eps=1e-3)), "warning"),
    ],
    "NS703": [
        Row(pair(output_difference=0.1, weight_distance=0.0), "error", pair(output_difference=0.1)),
        Row(pair(other_companions_difference=0.2), "error"),
        Row(pair(only_here=("bn2",), output_difference=0.1), "error"),
    ],
    "NS704": [
        Row(state(missing=("bn.running_mean", "bn.running_var")), "error", state(), HEALTHY),
        Row(state(missing=("bn.num_batches_tracked",)), "info"),
        Row(state(wrong_shape=("bn.running_var",)), "error", state(missing=("head.weight",))),
    ],
    "NS705": [
        Row(seen(running_mean=None), "error"),
        Row(one(layers=(norm(name="a"), norm(name="b"))), "warning",
            one(layers=(norm(name="a"), norm(
            name="b", running_mean=RAMP)))),
    ],
    "NS801": [
        Row(history(updates=200), "warning", history(updates=200, batches=200)),
        Row(history(updates=200, batches=110), "warning", history(updates=200, calls=2)),
        Row(history(updates=200, updates_in_backward=100), "warning", history()),
    ],
    "NS802": [Row(history(updates_without_grad=3, first_without_grad=7), "warning", history())],
    "NS803": [Row(history(steps_in_eval=60), "warning",
                  history(steps_in_eval=60, declared_frozen=True))],
    "NS804": [Row(history(declared_frozen=True, drifted_at=30), "error",
                  history(declared_frozen=True)),
              Row(history(trainable=False, scope_optimized=False), "warning",
                  history(trainable=False, scope_optimized=True)),
              Row(history(trainable=False, scope_optimized=False, updates=60), "warning",
                  history(trainable=False, scope_optimized=False, updates=0)),
              Row(history(trainable=False, scope_optimized=False, steps=5, updates=5), "warning",
                  history(trainable=False, scope_optimized=False, steps=4, updates=4))],
    "NS805": [
        Row(history(first_non_finite=9, others=(LayerHistory(name="b", first_non_finite=12),)),
            "error", history())
    ],
    "NS806": [
        Row(history(accumulation=4, samples=8), "info", history(samples=8)),
    ],
    "NS807": [Row(history(rank_distance=0.6), "warning", history(rank_distance=0.05)),
              Row(history(rank_gains_apart_at=7), "warning", history())],
    "NS808": [Row(history(lag=(1.0, *(0.1,) * 20, *(0.9,) * 10)), "warning",
                  history(lag=(*(1.0,) * 8, *(0.4,) * 24)))],
    "NS811": [Row(history(kind="layer", token_cosine=0.999), "warning",
                  history(kind="layer", token_cosine=0.9)),
              Row(cosines(0.5, 0.995, 0.996), "warning", cosines(0.5, 0.9, 0.996))],
    "NS812": [Row(history(kind="rms", attention=(250.0, 0.02)), "warning",
                  history(kind="rms", attention=(20.0, 0.6)))],
    "NS813": [Row(history(kind="layer", stream=(2.0, 90.0, 500.0, 0.8)), "info",
                  history(kind="layer", stream=(2.0, 9.0, 3.0, 0.1)))],
    "NS814": [Row(streams(lambda depth: 2.0**depth), "warning",
                  streams(lambda depth: (1 + depth) ** 0.5))],
    "NS607": [
        Row(seen(sync=True, measured=measured(batches=11)), "error", seen(sync=True),
            ONLY_LAYER_NORM),
    ],
    "NS810": [Row(history(penalties=100), "warning", history(penalties=5),
                  replace(HEALTHY, history=None))],
    "NS809": [
        Row(history(weight_moved=False, others=(LayerHistory(name="b", weight_moved=True),)),
            "warning",
            history(weight_moved=False)),
        Row(history(weight_moved=False, optimizer="AdamW", graded=False), "warning",
            history(weight_moved=False, optimizer="AdamW", graded=True)),
        Row(history(weight_moved=False, optimizer="SGD", graded=False), "warning",
            history(weight_moved=False, optimizer="SGD", graded=False, trainable=False)),
    ],
    "NS307": [
        Row(one(forward=forward(moved_buffers=("bn.running_mean",))), "error",
            seen(training_after_eval=True), NO_NORM),
        Row(one(forward=forward(moved_buffers=("encoder.seen",))), "warning",
            one(forward=forward(moved_buffers=("bn.running_mean",),
                                functional_batch_norm=("bn",)))),
    ],
    "NS308": [
        Row(one(forward=forward(train_failure="ValueError: one value", train_failure_at="bn")),
            "error",
            one(norm(measured=measured(values=1)),
                forward=forward(train_failure="ValueError: one value", train_failure_at="bn"))),
        Row(one(forward=forward(train_failure="KeyError: 3", train_failure_at="head")), "warning",
            one(forward=forward(train_failure="ValueError: targets should not be none"))),
    ],
    "NS407": [
        Row(one(layer_norm(parameter_dtype="bfloat16", step_size=3e-4, optimizer="AdamW"),
                optimizer=ADAMW), "warning",
            one(layer_norm(parameter_dtype="float32", step_size=3e-4), optimizer=ADAMW), NO_NORM),
        Row(one(layer_norm(parameter_dtype="float16", step_size=1e-4, optimizer="Adam"),
                optimizer=ADAMW), "warning",
            one(layer_norm(parameter_dtype="bfloat16", step_size=3e-3), optimizer=ADAMW)),
    ],
    "NS408": [
        Row(one(layer_norm(weight=np.linspace(0, 0.02, 64), weight_decay=0.1), optimizer=ADAMW),
            "warning",
            one(layer_norm(weight=np.linspace(0, 0.02, 64), weight_decay=0.0), optimizer=ADAMW),
            one(layer_norm(weight=np.zeros(64), weight_decay=0.1), optimizer=ADAMW)),
    ],
    "NS515": [
        Row(seen(measured=measured(precision_error=0.01)), "error",
            seen(measured=measured(precision_error=1e-7))),
        Row(seen(measured=measured(in_half=("variance",))), "warning"),
    ],
    "NS516": [
        Row(one(own_rms(gain=RAMP64 + 1)), "warning", one(own_rms(gain=RAMP64)), NO_NORM),
        Row(one(own_rms(gain=2 + RAMP64, weight=RAMP64)), "warning",
            one(own_rms(gain=1.7 * RAMP64))),
        Row(one(own_rms(bias=RAMP64, offset=0 * RAMP64, gain=RAMP64)), "warning",
            one(own_rms(bias=RAMP64, offset=RAMP64, gain=RAMP64))),
        Row(one(own_rms(gain=RAMP64, eps_response=0.99, set_mean_square=(1e-9,) * 3)), "warning",
            one(own_rms(gain=RAMP64, eps_response=0.71))),
    ],
    "NS514": [Row(seen(measured=measured(later_seen=0.5)), "warning",
                  seen(measured=measured(later_seen=1e-4)))],
    "NS706": [
        Row(replace(seen(training=True), export=True), "error", replace(HEALTHY, export=True),
            seen(training=True)),
        Row(replace(seen(running_mean=None, running_var=None), export=True), "error"),
    ],
}  # fmt: skip

ROWS = [(code, number, row) for code, rows in TABLE.items() for number, row in enumerate(rows)]


def test_the_table_covers_every_rule():
    assert set(TABLE) == {rule.code for rule in rules()}


@pytest.mark.parametrize(
    ("code", "number", "row"), ROWS, ids=lambda value: value if isinstance(value, str | int) else ""
)
def test_rule(code: str, number: int, row: Row):
    sick = judge(row.sick, select=[code])
    assert sick.codes == (code,)
    assert sick.findings[0].severity == row.severity
    assert sick.findings[0].remedy
    assert judge(row.healthy, select=[code]).codes == ()
    assert judge(row.not_applicable, select=[code]).findings == ()


@pytest.mark.parametrize(
    ("code", "number", "row"), ROWS, ids=lambda value: value if isinstance(value, str | int) else ""
)
def test_a_record_says_the_same_after_a_round_trip(code: str, number: int, row: Row):
    again = from_json(to_json(row.sick))
    assert judge(again).findings == judge(row.sick).findings


def test_findings_with_one_cause_say_the_same():
    messages: dict[tuple[str, str, str], set[str]] = {}
    for _, _, row in ROWS:
        for finding in judge(row.sick):
            key = (finding.code, finding.severity, finding.cause)
            messages.setdefault(key, set()).add(finding.message)
    assert not {key: said for key, said in messages.items() if len(said) > 1}


def test_numbers_in_a_message_do_not_part_a_cause():
    layers = [norm(name=f"bn{k}", momentum=m) for k, m in enumerate((0.99, 0.99, 0.999))]
    groups = judge(one(layers=tuple(layers)), select=["NS201"]).groups
    assert [group.layers for group in groups] == [("bn0", "bn1"), ("bn2",)]
    assert [group.first.remedy for group in groups] == ["Use momentum=0.01.", "Use momentum=0.001."]
    first, second = (Finding("NS0", "a", "error", k, f"{k} of 3.", cause="c") for k in "12")
    assert len(CheckReport((first, second)).groups) == 1


def test_a_healthy_model_gets_nothing():
    assert judge(HEALTHY).findings == ()
    assert judge(ONLY_LAYER_NORM).findings == ()
    assert judge(seen(**UNTRAINED)).findings == ()
