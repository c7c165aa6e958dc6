"""NS8xx: rules about a training as it ran, from a recording or a watched loop."""

from __future__ import annotations

import numpy as np

from normscope.judge.rule import FAR_MEAN, HistoryRule, Results, half_unit
from normscope.records.examination import Examination, History, LayerHistory


class UpdatedMoreThanOnce(HistoryRule, code="NS801", severity="warning"):
    """A layer's statistics are updated more than once per optimizer step.

    A forward is repeated in backward (activation checkpointing), or several forwards precede the
    step (SAM, extra losses, attacks, real and fake batches). Several calls of the layer in one
    forward count once. k updates with momentum m weigh like one with 1 - (1 - m)^k. Gradient
    accumulation is left out, where each forward is followed by its own backward and no weight moves
    in between, and so are steps that a gradient scaler skips.

    Why is this bad: the averaging window shrinks, and statistics of other batches or other weights
        enter it.
    When it is fine: designs that want every forward to count, such as separate real and fake
        batches.
    Example:
        for x, y in loader:
            loss = F.cross_entropy(model(x), y) + F.cross_entropy(model(x + 0.1), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    Use instead:
        for x, y in loader:
            loss = F.cross_entropy(model(torch.cat([x, x + 0.1])), torch.cat([y, y]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    """

    LIMIT = 1.5
    FEWEST_STEPS = 5  # so that a trial forward or two before the training do not count
    remedy = "Divide the momentum (1 - (1 - m)^(1/k)), or skip the update in the extra forwards."
    reference = "https://github.com/pytorch/pytorch/issues/96136"

    def check_steps(self, layer: LayerHistory, history: History) -> Results:
        if layer.steps < self.FEWEST_STEPS or layer.updates is None:
            return
        per_step = layer.updates / layer.steps
        expected = history.expected(layer)
        if layer.updates_in_backward:
            message = "Activation checkpointing repeats the forward in backward: it counts twice."
            repeated = layer.updates_in_backward / layer.steps
            evidence = {"updates_per_step": per_step, "in_backward_per_step": repeated, "limit": 1}
            yield self.finding(layer.name, message, evidence, cause="checkpointing")
        elif per_step / expected >= self.LIMIT:
            message = "The statistics are updated several times per optimizer step."
            evidence = {"updates_per_step": per_step, "limit": self.LIMIT, "expected": expected}
            yield self.finding(layer.name, message, evidence, cause="forwards")


class MovedWithoutGradients(HistoryRule, code="NS802", severity="warning"):
    """A forward without gradients ran in train mode and moved the running statistics.

    Recalibration (momentum=None, or normscope.mend.recalibrate) and checks are left out.

    Why is this bad: validation data, dummy inputs or generated samples enter the statistics.
    When it is fine: a teacher, or pseudo-labels, that are meant to use batch statistics.
    Example:
        for x, y in loader:
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            with torch.no_grad():
                model(validation)
    Use instead:
        for x, y in loader:
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            with torch.no_grad():
                model.eval()(validation)
            model.train()
    """

    remedy = "Call eval() for validation, and run helpers (summaries) on a copy in eval mode."
    reference = "https://github.com/princeton-vl/pytorch_stacked_hourglass/issues/44"

    def check_steps(self, layer: LayerHistory, history: History) -> Results:
        if layer.updates_without_grad:
            message = "Forwards without gradients moved the running statistics."
            updates, first = layer.updates_without_grad, layer.first_without_grad
            evidence = {"updates": updates, "first_step": first, "limit": 0}
            yield self.finding(layer.name, message, evidence)


class TrainedInEvalMode(HistoryRule, code="NS803", severity="warning"):
    """In more than 5% of the steps the layer was trained in eval mode, without having been frozen
    from the start.

    In eval mode from the start counts as frozen where the layers alone are; where a whole part of
    the model is, while its other weights are trained, somebody has left it so (a library gives
    models in eval mode, and its trainer does not call train()).

    Why is this bad: its statistics are those of an earlier network, so the layer does not normalize
        what it is given.
    When it is fine: statistics frozen on purpose in the last epochs.
    Example:
        for x, y in loader:
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            model.eval()(validation)  # and stays in eval mode
    Use instead:
        for x, y in loader:
            F.cross_entropy(model.train()(x), y).backward()
            optimizer.step()
            model.eval()(validation)
    """

    LIMIT = 0.05
    remedy = "Call model.train() after every validation, or restore the mode that was there."
    reference = "https://github.com/wkentaro/pytorch-fcn/pull/56"

    def check_steps(self, layer: LayerHistory, history: History) -> Results:
        share = layer.steps_in_eval / layer.steps if layer.steps else 0.0
        frozen = layer.declared_frozen and not layer.left_in_eval
        if share > self.LIMIT and layer.trainable is not False and not frozen:
            message = "The layer is trained in eval mode."
            if layer.left_in_eval:
                message = f"All of {layer.left_in_eval} is trained in eval mode, the layer with it."
            first, steps = layer.first_in_eval, layer.steps
            evidence = {
                "share_of_steps": share,
                "limit": self.LIMIT,
                "steps": steps,
                "first_step": first,
            }
            yield self.finding(layer.name, message, evidence)


class FrozenDrift(HistoryRule, code="NS804", severity="error"):
    """A layer that was in eval mode inside a model in train mode when training began has updated
    its statistics; or one in train mode has, although neither it nor the weights around it are
    trained (a warning).

    Why is this bad: something has put it back in train mode, most often model.train() after a
        validation. requires_grad=False does not freeze buffers.
    When it is fine: a freeze that is meant to end; statistics that are meant to be estimated anew.
    Example:
        model[1].eval()
        for x, y in loader:
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            model.eval()(validation)
            model.train()
    Use instead:
        mend.freeze(model[1])
        for x, y in loader:
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            model.eval()(validation)
            model.train()
    """

    FEWEST_STEPS = 5
    remedy = "normscope.mend.freeze survives train(); or override train() in the frozen part."
    mend = "normscope.mend.freeze"
    reference = "https://github.com/pgniewko/gt-pyg/issues/112"

    def check_steps(self, layer: LayerHistory, history: History) -> Results:
        if layer.declared_frozen and layer.drifted_at is not None:
            evidence = {"step": layer.drifted_at}
            yield self.finding(layer.name, "The frozen statistics moved.", evidence)
        elif self._is_frozen(layer) and (layer.updates or 0) > layer.steps / 2:
            message = "Nothing here is trained, but its statistics move with every forward."
            evidence = {"updates": layer.updates, "steps": layer.steps, "requires_grad": False}
            yield self.finding(layer.name, message, evidence, "warning", cause="trains nothing")

    def _is_frozen(self, layer: LayerHistory) -> bool:
        seen = layer.steps >= self.FEWEST_STEPS
        return seen and layer.trainable is False and layer.scope_optimized is False


class NonFiniteInTraining(HistoryRule, code="NS805", severity="error"):
    """In training, a layer's batch statistics, buffers or parameters became NaN or infinite. The
    first layer is named.

    Why is this bad: running statistics keep it. The loss may recover, evaluation does not.
    When it is fine: never in running statistics; a gradient that a scaler skips.
    Example:
        for x, y in loader:
            F.cross_entropy(model(x.log()), y).backward()  # NaN below zero
            optimizer.step()
    Use instead:
        for x, y in loader:
            F.cross_entropy(model(x.clamp(min=1e-3).log()), y).backward()
            optimizer.step()
    """

    remedy = "Look at the batch of that step, clamp or use fp32 before the layer, then recalibrate."
    mend = "normscope.mend.recalibrate"
    reference = "https://github.com/pytorch/pytorch/issues/90342"

    def check_history(self, history: History, exam: Examination) -> Results:
        steps = [layer.first_non_finite for layer in history.layers]
        hit = [step for step in steps if step is not None]
        if hit:
            # In that step the layers are in the model's order, and the values spread along it.
            layer = history.layers[steps.index(min(hit))]
            message = "NaN or infinity appeared here first."
            evidence = {"step": min(hit), "layers_later": len(hit) - 1}
            yield self.finding(layer.name, message, evidence)


class AccumulationIsNoBatch(HistoryRule, code="NS806", severity="info"):
    """Several batches make one optimizer step, and each is normalized by itself.

    Why is this bad: statistics are those of the small batches. 4 times 16 is not 64 to batch
        normalization.
    When it is fine: small batches that are large enough, 16 and more samples; hence an info. NS506
        judges the batch itself.
    Example:
        for step, (x, y) in enumerate(loader, start=1):
            F.cross_entropy(model(x), y).backward()
            if step % 4 == 0:
                optimizer.step()
                optimizer.zero_grad()
    Use instead:
        for x, y in DataLoader(TensorDataset(images, labels), batch_size=64, shuffle=True):
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    """

    remedy = "Use a larger batch, group normalization, frozen statistics, or a smaller momentum."
    mend = "normscope.mend.convert"
    reference = "https://github.com/ultralytics/yolov5/issues/1630"

    def check_history(self, history: History, exam: Examination) -> Results:
        batches = history.accumulation or 1
        samples = [
            layer.samples for layer in history.layers if layer.kind == "batch" and layer.samples
        ]
        if batches > 1 and samples:
            message = "Gradients are accumulated over several batches, statistics are not."
            smallest = min(samples)
            evidence = {"samples": smallest, "accumulated": smallest * batches}
            yield self.finding("", message, evidence)


class RanksApart(HistoryRule, code="NS807", severity="warning"):
    """The running means of two processes are more than a quarter of a standard deviation apart, and
    further than chance makes them in batches of their size, or their weights and biases, which are
    copies, are not the same.

    Why is this bad: only one process's statistics are saved. They are those of its share of the
        data, or of a hook that ran on it alone.
    When it is fine: never, if one checkpoint is to stand for all.
    Example (several processes):
        share = images[rank::world_size]  # of a dataset that is sorted by class
    Use instead:
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(epoch))
        share = images[order[rank::world_size]]
    """

    remedy = "Share the data out at random, use SyncBatchNorm, or recalibrate on all of it."
    mend = "normscope.mend.recalibrate"
    reference = "https://github.com/facebookresearch/detectron2/issues/5398"

    def check_steps(self, layer: LayerHistory, history: History) -> Results:
        apart = layer.rank_distance
        if apart is not None and apart > FAR_MEAN:
            message = "The processes' running statistics are apart."
            evidence = {"means_apart_in_sd": apart, "limit": FAR_MEAN}
            if layer.ranks_apart_at is not None:
                evidence["first_step"] = layer.ranks_apart_at
            yield self.finding(layer.name, message, evidence, cause="statistics")
        if (step := layer.rank_gains_apart_at) is not None:
            message = (
                f"The processes' copies of weight and bias are not the same from step {step:,} on."
            )
            yield self.finding(layer.name, message, {"first_step": step}, cause="gains")


class StatisticsLag(HistoryRule, code="NS808", severity="warning"):
    """The distance between running mean and batch mean (95% quantile over channels, in standard
    deviations) grows.

    Its median in the last quarter of the training is above 0.5 and three times that of the second
    quarter. What a batch's own noise makes of the distance is the same in both.

    Why is this bad: activations move faster than the running average follows. Evaluation gets worse
        while training looks well.
    When it is fine: while the learning rate is warmed up.
    Example:
        for step, (x, y) in enumerate(loader):
            F.cross_entropy(model(x + 1e-5 * step**4), y).backward()  # inputs drift away
            optimizer.step()
    Use instead:
        for step, (x, y) in enumerate(loader):
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    """

    RECORDS = 16
    LIMIT, GROWTH = 0.5, 3.0
    remedy = "Lower the learning rate, raise the momentum, or recalibrate before evaluating."
    mend = "normscope.mend.recalibrate"
    reference = "https://discuss.pytorch.org/t/batch-norm-instability/32159"

    def check_steps(self, layer: LayerHistory, history: History) -> Results:
        if len(layer.lag) < self.RECORDS:
            return
        lag, quarter = np.array(layer.lag), len(layer.lag) // 4
        earlier = float(np.median(lag[quarter : 2 * quarter]))
        late = float(np.median(lag[-quarter:]))
        if late > self.LIMIT and late > self.GROWTH * earlier:
            message = "The running statistics fall further and further behind the batches'."
            step = layer.lag_steps[-1] if layer.lag_steps else None
            evidence = {"lag_in_sd": late, "earlier": earlier, "limit": self.LIMIT, "step": step}
            yield self.finding(layer.name, message, evidence)


class GainNeverMoves(HistoryRule, code="NS809", severity="warning"):
    """Over the whole recording the layer's weight, which needs a gradient, did not change by a bit.

    Told apart are: no optimizer steps it, though one steps weights around it or other layers'
    weights move; a step is below half a unit in the last place of the weight; an optimizer holds
    it, and it never had a gradient; its gradient is always zero.

    Why is this bad: the layer is not trained. In pure bf16 that is the rule for gains near one.
    When it is fine: a layer frozen on purpose: say so with requires_grad=False, and it is not
        reported.
    Example:
        names = ["7.weight", "7.bias"]  # a filter that drops one layer
        optimizer = torch.optim.SGD([p for n, p in model.named_parameters() if n not in names], 0.1)
        for x, y in loader:
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    Use instead:
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for x, y in loader:
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    """

    FEWEST_STEPS = 50
    remedy = "Check the optimizer's parameters, the weight's precision, and what follows the layer."
    reference = "https://github.com/official-stockfish/nnue-pytorch/pull/91"

    def check_steps(self, layer: LayerHistory, history: History) -> Results:
        stands = layer.weight_moved is False and layer.steps >= self.FEWEST_STEPS
        if not stands or layer.trainable is False:
            return
        others_move = any(other.weight_moved for other in history.layers)
        dtype, step, size = layer.parameter_dtype, layer.step_size, layer.weight_size
        half = None if size is None else float(half_unit(np.array(size), dtype))
        evidence = {"steps": layer.steps, "optimizer": layer.optimizer}
        if layer.optimizer == "":
            if layer.scope_optimized or (layer.scope_optimized is None and others_move):
                message = "The weight never changed: no optimizer steps it."
                yield self.finding(layer.name, message, evidence, cause="optimizer")
        elif step and half and step < half:
            message = (
                f"The weight never changed: a step of {layer.optimizer} is less than half a unit "
                f"in the last place of {dtype}, and is lost by rounding."
            )
            evidence = {**evidence, "step": step, "half_unit": half}
            yield self.finding(layer.name, message, evidence, cause=f"{layer.optimizer} {dtype}")
        elif layer.optimizer and layer.graded is False:
            message = (
                f"The weight never changed: {layer.optimizer} holds it, and no gradient ever "
                "reached it. The forward passes it by, or nothing depends on it."
            )
            yield self.finding(
                layer.name, message, evidence, cause=f"{layer.optimizer} without gradient"
            )
        elif others_move or layer.gradient_zero is False:
            message = "The weight never changed by a bit."
            if others_move:
                message = "The weight never changed, while those of other layers did."
            zero = "always zero" if layer.gradient_zero else "not zero, or not recorded"
            evidence = {"steps": layer.steps, "gradient": zero, "dtype": dtype}
            yield self.finding(layer.name, message, evidence, cause=message)


class PenaltyThroughBatchStatistics(HistoryRule, code="NS810", severity="warning"):
    """In more than a tenth of the steps a gradient with respect to the inputs is itself
    differentiated, while layers normalize by the batch's statistics.

    That is a gradient penalty, as in a WGAN-GP critic, or an equation's residual.

    Why is this bad: the penalty is meant for the gradient at each sample. With batch statistics
        each output depends on all samples.
    When it is fine: a penalty that is meant for the batch as a whole.
    Example:
        for x, y in loader:
            scores = model(x.requires_grad_())
            gradient = torch.autograd.grad(scores.sum(), x, create_graph=True)[0]
            (scores.mean() + (gradient.flatten(1).norm(dim=1) - 1).square().mean()).backward()
            optimizer.step()
    Use instead:
        mend.convert(model, "batch", "group")
        for x, y in loader:
            scores = model(x.requires_grad_())
            gradient = torch.autograd.grad(scores.sum(), x, create_graph=True)[0]
            (scores.mean() + (gradient.flatten(1).norm(dim=1) - 1).square().mean()).backward()
            optimizer.step()
    """

    LIMIT = 0.1
    remedy = "Group, layer or instance normalization in that network, or none."
    mend = "normscope.mend.convert"
    reference = "https://arxiv.org/abs/1704.00028"

    def check_history(self, history: History, exam: Examination) -> Results:
        live = [layer for layer in history.layers if layer.kind == "batch" and layer.updates]
        if history.penalties > self.LIMIT * history.steps and history.steps and live:
            message = "The gradient at the inputs is penalized; batch statistics mix the samples."
            penalties, steps = history.penalties, history.steps
            evidence = {"penalties": penalties, "steps": steps, "layers": len(live)}
            yield self.finding("", message, evidence)
