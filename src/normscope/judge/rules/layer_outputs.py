"""NS5xx, fourth part: rules about what single layers make of their input."""

from __future__ import annotations

import numpy as np

from normscope.judge.rule import BATCHES, EVERY_KIND, MeasuredRule, Results, Rule
from normscope.records.examination import Examination, Layer, Measured


class VanishedOutput(MeasuredRule, code="NS508", severity="error", kinds=EVERY_KIND):
    """The normalized value is all but constant over samples, channels and positions, while the
    input varies ten times as much or more.

    Measured: the standard deviation of the normalized value in eval mode, near 1 in a healthy
    layer, and near that of the input in one with the running statistics of a new layer.

    Why is this bad: nothing of the input passes the layer, and the network cannot learn through it.
    When it is fine: never. A weight of zero is reported by another rule.
    Example:
        model = nn.BatchNorm2d(1).eval()
        model.running_var.fill_(1e10)  # one batch in other units
    Use instead:
        mend.recalibrate(model, batches)
    """

    LIMIT, SHARE = 1e-3, 0.1
    remedy = "Look at the size of the normalized sets, at eps, and at the running variance."
    reference = "https://github.com/pytorch/pytorch/issues/19250"

    def check_measured(self, layer: Layer, measured: Measured, exam: Examination) -> Results:
        output, input_ = measured.output_spread, measured.input_spread
        own = layer.foreign and layer.kind in ("layer", "rms")
        if output is None or not input_ or (own and not _has_gain(layer)):
            return
        if output < self.LIMIT < input_ and output < self.SHARE * input_:
            message = "The input varies, the normalized value does not."
            evidence = {"output_std": output, "input_std": input_, "limit": self.LIMIT}
            yield self.finding(layer.name, message, evidence)


def _has_gain(layer: Layer) -> bool:
    """Tell whether the weights of a library's own layer, whatever it adds to them, are not zero."""
    return layer.weight is not None and bool(np.median(np.abs(layer.weight)) > 0.1)


class NonFiniteForward(Rule, code="NS509", severity="error", kinds=()):
    """On finite inputs a normalization layer receives or makes NaN or infinity. The first one is
    named.

    Why is this bad: in train mode one such batch poisons the running statistics for good.
    When it is fine: never.
    Example:
        class Log(nn.Module):
            def forward(self, x):
                return torch.log(x)  # NaN below zero

        model = nn.Sequential(Log(), nn.BatchNorm2d(1))
    Use instead:
        class Log(nn.Module):
            def forward(self, x):
                return torch.log(x.clamp(min=1e-6))

        model = nn.Sequential(Log(), nn.BatchNorm2d(1))
    """

    remedy = "Clamp or compute in fp32 what comes before the first layer that is named."
    reference = "https://github.com/pytorch/pytorch/issues/90342"
    needs = BATCHES

    def check(self, exam: Examination) -> Results:
        for layer in exam.layers:
            received = layer.measured.input_non_finite if layer.measured is not None else 0
            made = layer.measured.output_non_finite if layer.measured is not None else 0
            if received:
                message = "First layer that receives NaN or infinity."
                yield self.finding(layer.name, message, {"values": received}, cause="input")
            elif made:
                message = "First layer that turns finite input into NaN or infinity."
                yield self.finding(layer.name, message, {"values": made}, cause="output")
            if received or made:
                return


class ImpreciseForward(MeasuredRule, code="NS515", severity="error", kinds=EVERY_KIND):
    """A layer's own forward loses its result to rounding, or computes in 16 bits what belongs in
    32.

    Its first call is repeated in float64 on the same input. Reported are outputs further apart than
    5% in 16 bits or 0.1% in fp32 (an error: squares that overflow, variances in which an offset
    cancels, an eps that rounds to zero), a variance that is rounded to 16 bits, and 1 + weight
    rounded to 16 bits, where small weights are lost. PyTorch's own layers compute in fp32 inside
    and are left out.

    Why is this bad: in fp16 |x| above 256 has an infinite square, and x / inf is 0, without a NaN
        anywhere. In bf16 a variance has three digits.
    When it is fine: a model that was trained that way, and is run that way (a warning).
    Example:
        class RMS(nn.Module):
            def __init__(self):
                super().__init__()
                self.weight, self.eps = nn.Parameter(torch.ones(32)), 1e-5

            def forward(self, x):
                return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight

        model = nn.Sequential(nn.Linear(32, 32), RMS()).half()
        batches = [1000 * torch.randn(64, 32).half()]
    Use instead:
        model = nn.Sequential(nn.Linear(32, 32), nn.RMSNorm(32)).half()
    """

    LIMIT, LIMIT_HALF = 1e-3, 0.05
    remedy = "Compute in fp32 inside: x.float() first, back to the input's type last."
    reference = "https://github.com/neuroneural/brainchop-cli/pull/56"

    def check_measured(self, layer: Layer, measured: Measured, exam: Examination) -> Results:
        dtype = layer.place.input_dtype if layer.place is not None else layer.parameter_dtype
        limit = self.LIMIT_HALF if dtype in ("float16", "bfloat16") else self.LIMIT
        error = measured.precision_error
        if measured.repeat_failure:
            yield self.not_evaluated(
                f"a forward of {layer.type} in float64: {measured.repeat_failure}"
            )
        if error is not None and error > limit:
            message = f"Its own forward loses the result to rounding in {dtype}."
            evidence = {"relative_error": error, "limit": limit, "input": measured.input_largest}
            yield self.finding(layer.name, message, evidence, cause=dtype)
            return
        for what in measured.in_half:
            message = f"Its own forward rounds the {what} to {dtype}, which belongs in fp32."
            evidence = {"relative_error": error}
            yield self.finding(layer.name, message, evidence, "warning", cause=f"{what} {dtype}")


class WeightsMisapplied(MeasuredRule, code="NS516", severity="warning", kinds=("layer", "rms")):
    """What a library's own layer multiplies by and adds is not what its weight and bias say.

    Gain and offset of each channel follow from one call. Compared with the weight, the gain may
    have 1 added (or be a multiple of it): any other difference is reported, and so is a bias that
    is not added. Where 1 is added although the weights of all layers are around one, it is added
    twice; where it is not although they are all around zero, it was lost in a conversion. An eps
    that is added to the standard deviation in place of the variance is an info, or a warning where
    it is more than 1% of it.

    Why is this bad: weights were trained for another formula. The model runs, and is a little or
        much worse.
    When it is fine: a formula of its own, with which the weights were trained.
    Example:
        class RMS(nn.RMSNorm):
            def forward(self, x):
                return F.rms_norm(x, self.normalized_shape, None, self.eps) * (1 + self.weight)

        model = nn.Sequential(RMS(32, eps=1e-6), nn.Linear(32, 32), RMS(32, eps=1e-6))
        for norm in (model[0], model[2]):
            nn.init.normal_(norm.weight, 1.0, 0.02)  # of a checkpoint that multiplies by weight
        batches = [torch.randn(64, 32)]
    Use instead:
        for norm in (model[0], model[2]):
            norm.weight.data -= 1  # its distance from one
    """

    EXACT, OUTSIDE, NOTABLE = 0.05, 0.85, 0.01
    NEAR_ONE, NEAR_ZERO = (0.7, 1.4), 0.3
    remedy = (
        "Compare the formula with that of the weights' library: 1 + weight, bias, place of eps."
    )
    mend = "normscope.mend.convert_gains"
    reference = "https://github.com/huggingface/transformers/pull/29402"

    def check_measured(self, layer: Layer, measured: Measured, exam: Examination) -> Results:
        if not layer.foreign:
            return
        yield from self._check_gain(layer, measured, exam)
        bias, offset = layer.bias, measured.offset
        if bias is not None and offset is not None and bias.shape == offset.shape:
            size = float(np.abs(bias).max())
            if size > 1e-2 and float(np.abs(offset).max()) < self.EXACT * size:
                message = "The layer holds a bias, and does not add it."
                yield self.finding(layer.name, message, {"largest_bias": size}, cause="bias")
        response = measured.eps_response
        if measured.eps_failure:
            what = f"a forward of {layer.type} in float64, for the place of eps"
            yield self.not_evaluated(f"{what}: {measured.eps_failure}")
        if response is not None and response > self.OUTSIDE and layer.eps:
            squares = measured.set_mean_square if layer.kind == "rms" else measured.set_var
            std = squares[1] ** 0.5 if len(squares) == 3 else 1.0
            share = layer.eps / max(std, 1e-30)
            severity = "warning" if share > self.NOTABLE else "info"
            message = "eps is not added to the variance, but behind its root or not at all."
            evidence = {"eps": layer.eps, "eps_over_std": share, "limit": self.NOTABLE}
            yield self.finding(layer.name, message, evidence, severity, cause=f"eps {severity}")

    def _check_gain(self, layer: Layer, measured: Measured, exam: Examination) -> Results:
        gain, weight = measured.gain, layer.weight
        if gain is None or weight is None or gain.shape != weight.shape or len(gain) < 4:
            return
        added, size = float(np.median(gain - weight)), max(float(np.abs(gain).max()), 1e-3)
        alike = [each.weight for each in exam.layers if each.type == layer.type]
        medians = [float(np.median(each)) for each in alike if each is not None and len(each) > 3]
        low, high_ = min(medians), max(medians)
        evidence = {"added_to_weight": added, "median_weight": float(np.median(weight))}
        exact = float(np.abs(gain - weight - added).max()) < self.EXACT * size
        trained = len(medians) > 1 and len(np.unique(weight)) > 3
        multiple = float(np.median(gain)) / (float(np.median(weight)) or np.inf)
        scaled = float(np.abs(gain - multiple * weight).max()) < self.EXACT * size
        if exact and abs(added) < self.EXACT and trained and max(abs(low), high_) < self.NEAR_ZERO:
            message = "The layer multiplies by its weight, which looks like a distance from one."
            yield self.finding(layer.name, message, evidence, cause="lost")
        elif exact and abs(added - 1) < self.EXACT and low > self.NEAR_ONE[0]:
            if high_ < self.NEAR_ONE[1]:
                message = (
                    "The layer multiplies by 1 + weight, but its weight is around one already."
                )
                yield self.finding(layer.name, message, evidence, cause="doubled")
        elif exact and abs(added - 2) < self.EXACT:
            message = "The layer multiplies by 2 + weight: one is added twice."
            yield self.finding(layer.name, message, evidence, cause="twice")
        elif min(abs(added), abs(added - 1)) > self.EXACT and not scaled:
            message = "The layer multiplies by something else than its weight."
            yield self.finding(layer.name, message, evidence, cause="other")
