"""NS3xx: rules about train and eval mode, and about freezing."""

from __future__ import annotations

import re

from normscope.judge.rule import ForwardRule, Results, Rule, in_eval_mode_alone, never_ran
from normscope.records.examination import BATCH_KINDS, Examination, Forward, Layer


class StaysInTrainMode(Rule, code="NS301", severity="error", kinds=()):
    """After model.eval() the layer is still in train mode, or F.batch_norm runs with training=True.

    Why is this bad: predictions depend on the batch, and evaluation overwrites the running
        statistics.
    When it is fine: never in a model that is evaluated.
    Example:
        class Norm(nn.BatchNorm2d):
            def train(self, mode=True):
                return super().train()  # forgets the mode

        model = Norm(8)
    Use instead:
        class Norm(nn.BatchNorm2d):
            def train(self, mode=True):
                return super().train(mode)

        model = Norm(8)
    """

    remedy = "Let train() and eval() reach every layer; F.batch_norm needs training=self.training."
    reference = "https://github.com/pytorch/pytorch/pull/115715"

    def check(self, exam: Examination) -> Results:
        for layer in exam.of_kind(*BATCH_KINDS):
            # Without running statistics both modes are the same, and another rule reports it.
            if layer.live and layer.training_after_eval and layer.tracked:
                message = "model.eval() leaves the layer in train mode."
                yield self.finding(layer.name, message, {"training": True}, cause="layer")
        for name in exam.forward.functional_batch_norm if exam.forward is not None else ():
            message = "F.batch_norm runs with training=True in eval mode."
            yield self.finding(name, message, {"training": True}, cause="function")


class TrainModeRemains(Rule, code="NS302", severity="warning", kinds=BATCH_KINDS):
    """The model is in eval mode, some of its layers are in train mode.

    Why is this bad: those layers use and update batch statistics while the model is believed to be
        evaluated.
    When it is fine: recalibrating chosen layers; test-time adaptation.
    Example:
        model = trained().eval()
        model[1].train()
    Use instead:
        model = trained()
        model[1].train()
        model.eval()
    """

    remedy = "Call eval() on the whole model, after everything that calls train() on a part."
    reference = "https://github.com/microsoft/robustdg/issues/30"

    def check_layer(self, layer: Layer, exam: Examination) -> Results:
        if exam.training is False and layer.training and layer.live and layer.tracked:
            message = "The model is in eval mode, the layer in train mode."
            yield self.finding(layer.name, message, {"model_training": False, "training": True})


class BatchStatisticsInUse(Rule, code="NS303", severity="info", kinds=BATCH_KINDS):
    """The model is in train mode: every forward uses the batch's statistics and moves the running
    ones.

    Why is this bad: it is right in training. A model that is evaluated, attacked, measured or
        exported must be in eval mode.
    When it is fine: in training, and where batch statistics at test time are the design. A model
        that was not trained yet is not reported.
    Example:
        model = trained().train()
    Use instead:
        model = trained().eval()
    """

    remedy = "Call model.eval() before anything but training."
    reference = "https://github.com/bethgelab/foolbox/issues/74"

    def check(self, exam: Examination) -> Results:
        layers = [
            layer
            for layer in exam.of_kind(*self.kinds)
            if layer.live and layer.training and layer.tracked
        ]
        if exam.training and layers and not exam.export and not exam.untrained:
            message = "In train mode outputs depend on the batch, and forwards move the statistics."
            yield self.finding("", message, {"layers": len(layers)})


class FrozenWithLiveStatistics(Rule, code="NS304", severity="warning", kinds=BATCH_KINDS):
    """The layer needs no gradient, yet it is in train mode and updates its statistics.

    Reported where the weights around it need none either, or where its weight and bias stand at
    values that were trained.

    Why is this bad: requires_grad=False does not freeze buffers. The frozen part computes another
        function after every forward; an eval() of its layers lasts until the next train().
    When it is fine: AdaBN and other re-estimation of statistics; a teacher that is meant to use
        batch statistics. Layers that the forward passes by are not reported, as the originals that
        an adapter keeps beside the copies it trains.
    Example:
        model = trained().train()
        model.requires_grad_(False)
    Use instead:
        model = trained().train()
        mend.freeze(model.requires_grad_(False))
    """

    remedy = "Put the frozen layers in eval mode so that it survives the next train()."
    mend = "normscope.mend.freeze"
    reference = "https://github.com/pytorch/pytorch/issues/86590"

    def check_layer(self, layer: Layer, exam: Examination) -> Results:
        moves = layer.live and layer.training and layer.tracked and layer.momentum != 0
        moves = moves and not (never_ran(layer, exam) or _has_trained_copy(layer, exam))
        scope = layer.scope_trainable if layer.scope_trainable is not None else layer.trainable
        if not moves or layer.tracks is False or layer.trainable:
            return
        evidence = {"requires_grad": False, "training": True}
        if scope is False:
            message = "Nothing here is trained, but in train mode every forward moves statistics."
            yield self.finding(layer.name, message, evidence)
        elif layer.trainable is False and layer.affine_trained:
            message = "Its trained weight and bias are frozen, its statistics still move."
            yield self.finding(layer.name, message, evidence, cause="affine")


def _has_trained_copy(layer: Layer, exam: Examination) -> bool:
    """Tell whether an adapter (peft) keeps the layer beside a copy that its forward runs."""
    before, inside, _ = layer.name.partition("original_module")
    copies = f"{before}modules_to_save."
    return bool(inside) and any(other.name.startswith(copies) for other in exam.layers)


class FreezeNotSticky(Rule, code="NS305", severity="warning", kinds=BATCH_KINDS):
    """Layers are in eval mode inside a model in train mode, and the next model.train() puts them
    back in train mode.

    Why is this bad: validation loops end with model.train(). From the second epoch on the frozen
        statistics drift.
    When it is fine: a loop that freezes again after every train().
    Example:
        model = trained().train()
        model[1].eval()
    Use instead:
        model = trained().train()
        mend.freeze(model[1])
    """

    remedy = "Use normscope.mend.freeze, which survives train(), or override train()."
    mend = "normscope.mend.freeze"
    reference = "https://github.com/pgniewko/gt-pyg/issues/112"

    def check_layer(self, layer: Layer, exam: Examination) -> Results:
        frozen = in_eval_mode_alone(layer, exam) and layer.live and layer.tracked
        if frozen and layer.training_after_train:
            message = "The layer is frozen in eval mode, but the next train() undoes it."
            evidence = {"training": False, "training_after_train": True}
            yield self.finding(layer.name, message, evidence)


class HalfFrozen(Rule, code="NS306", severity="warning", kinds=BATCH_KINDS):
    """In a model in train mode the layer is in eval mode, while its weight and bias are trained.

    An info where the layers alone are in eval mode; a warning where a whole part of the model is,
    whose other weights are trained: somebody has left it so.

    Why is this bad: eval() does not stop gradients, so the layer is only half frozen.
    When it is fine: common, and often intended, in fine-tuning.
    Example:
        model = trained().train()
        model[1].eval()
    Use instead:
        model = trained().train()
        model[1].eval().requires_grad_(False)
    """

    remedy = "Add requires_grad_(False) to freeze fully, or leave it if that is intended."
    mend = "normscope.mend.freeze"
    reference = "https://github.com/idstcv/SoftTriple/issues/4"

    def check_layer(self, layer: Layer, exam: Examination) -> Results:
        frozen = in_eval_mode_alone(layer, exam) and layer.live and layer.tracked
        if frozen and layer.trainable:
            part = layer.left_in_eval
            message = "The statistics are frozen, the weight and bias are trained."
            severity = "info"
            if part:
                message = f"All of {part} is in eval mode, while its weights are trained."
                severity = "warning"
            evidence = {"training": False, "requires_grad": True}
            yield self.finding(layer.name, message, evidence, severity, cause=part)


class MovesInEvalMode(ForwardRule, code="NS307", severity="error", kinds=()):
    """A forward in eval mode changes persistent buffers, compared bit by bit.

    Layers that eval() leaves in train mode are reported by NS301. Counted as statistics are the
    buffers of normalization layers, and those named mean, var, std, scale, moment or count.

    Why is this bad: each evaluation changes the model, and the next checkpoint with it. What a
        sample gets depends on what was evaluated before.
    When it is fine: counters and caches that no output depends on (a warning, of buffers that do
        not look like statistics).
    Example:
        class Observations(nn.Module):
            def __init__(self):
                super().__init__()
                self.register_buffer("running_mean", torch.zeros(8))

            def forward(self, x):
                self.running_mean.lerp_(x.detach().mean(0), 0.1)  # in any mode
                return x - self.running_mean

        model = nn.Sequential(Observations(), nn.Linear(8, 2)).eval()
        batches = [torch.randn(64, 8) + k for k in range(3)]
    Use instead:
        class Observations(nn.Module):
            def __init__(self):
                super().__init__()
                self.register_buffer("running_mean", torch.zeros(8))

            def forward(self, x):
                if self.training:
                    self.running_mean.lerp_(x.detach().mean(0), 0.1)
                return x - self.running_mean

        model = nn.Sequential(Observations(), nn.Linear(8, 2)).eval()
    """

    STATISTICS = re.compile(
        r"(mean|var|std|sigma|scale|momentum|moment|count|m2|num_batches)", re.I
    )
    remedy = "Update the statistics in train mode only: ask self.training."
    reference = "https://github.com/vwxyzjn/cleanrl/pull/556"

    def check_forward(self, forward: Forward, exam: Examination) -> Results:
        layers = {layer.name: layer for layer in exam.layers}
        modules: dict[str, list[str]] = {}
        for buffer in forward.moved_buffers:
            module, _, name = buffer.rpartition(".")
            modules.setdefault(module, []).append(name)
        for module, names in modules.items():
            layer = layers.get(module)
            left_in_train_mode = layer is not None and layer.training_after_eval
            if left_in_train_mode or module in forward.functional_batch_norm:
                continue
            statistics = layer is not None or any(map(self.STATISTICS.search, names))
            message = "A forward in eval mode changes its buffers."
            if statistics:
                message = "A forward in eval mode moves its statistics."
            severity = "error" if statistics else "warning"
            evidence = {"buffers": ", ".join(names)}
            yield self.finding(module, message, evidence, severity, cause=severity)


class TrainForwardFails(ForwardRule, code="NS308", severity="error", kinds=()):
    """After the model's own train(), a forward on the first batch raises.

    Parts that act in train mode alone are looked at that way: ghost batches, dropout, wrappers. An
    error where the layer that raises is a normalization or holds one. A forward that asks for
    targets in train mode is not judged.

    Why is this bad: the training ends there, or has never used this path.
    When it is fine: a model for inference alone.
    Example:
        class Ghost(nn.BatchNorm1d):
            def forward(self, x):
                if not self.training:
                    return super().forward(x)
                return torch.cat([super(Ghost, self).forward(part) for part in x.split(16)])

        model = Ghost(4).eval()
        batches = [torch.randn(33, 4)]  # the last part is a single row
    Use instead:
        model = Ghost(4).eval()
        batches = [torch.randn(48, 4)]
    """

    TARGETS = ("target", "label", "missing", "not implemented")
    remedy = "Run a training step on this batch; give each part of it enough samples."
    reference = "https://github.com/dreamquark-ai/tabnet/issues/305"

    def check_forward(self, forward: Forward, exam: Examination) -> Results:
        failure, at = forward.train_failure, forward.train_failure_at
        # a batch of one is reported by NS506
        measured = [layer.measured for layer in exam.layers if layer.live and layer.measured]
        if not failure or any(each.values == 1 for each in measured):
            return
        if any(word in failure.lower() for word in self.TARGETS):
            yield self.not_evaluated(f"a forward in train mode: {failure}")
            return
        layers = [layer.name for layer in exam.layers]
        holds = any(name == at or name.rpartition(".")[0] == at for name in layers)
        severity = "error" if holds and (at or layers) else "warning"
        message = f"In train mode the forward raises: {failure}"
        yield self.finding(at, message, {"batch_size": forward.batch_sizes[0]}, severity)
