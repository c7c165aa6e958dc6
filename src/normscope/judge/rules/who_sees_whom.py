"""NS5xx, third part: layers whose output changes where their own input did not."""

from __future__ import annotations

from normscope.judge.rule import EVERY_KIND, MeasuredRule, Results
from normscope.records.examination import Examination, Layer, Measured


class PaddingInStatistics(MeasuredRule, code="NS510", severity="warning", kinds=EVERY_KIND):
    """Padding enters the statistics.

    Of batch and instance normalization: more than 5% of the positions are padding, and they change
    the variance by more than 10%. Padding is what the batch's mask says, or the zeros at the end of
    sequences [N, C, L] or [N, L, C] of several lengths. Compared are variances over all positions
    and over the real ones, median over the channels.

    Of every kind, in eval mode: other content under the batch's mask changes the layer's output by
    more than 2% at positions where its own input does not change.

    Why is this bad: statistics depend on how much padding a batch has, so the same sequence is
        normalized differently.
    When it is fine: zeros that are data.
    Example:
        sequences = [3 + torch.randn(length, 8) for length in range(5, 53, 3)]
        padded = nn.utils.rnn.pad_sequence(sequences, batch_first=True)  # [16, 50, 8]
        batches = [padded.transpose(1, 2)] * 4
        model = nn.BatchNorm1d(8)
    Use instead:
        batches = [padded] * 4
        model = nn.LayerNorm(8)  # each position by itself
    """

    SHARE, EFFECT, SEEN = 0.05, 0.1, 0.02
    remedy = "Use masked statistics, bucket by length, or a normalization per position (LayerNorm)."
    mend = "normscope.mend.convert"
    reference = "https://github.com/SeanNaren/deepspeech.pytorch/issues/312"

    def check_measured(self, layer: Layer, measured: Measured, exam: Examination) -> Results:
        padding, effect = measured.padding, measured.padding_effect
        counted = padding is not None and padding > self.SHARE
        if counted and effect is not None and effect > self.EFFECT:
            message = "Padding is counted in the statistics and changes them."
            evidence = {
                "padding_share": padding,
                "log_variance_change": effect,
                "limit": self.EFFECT,
            }
            yield self.finding(layer.name, message, evidence, cause="statistics")
        elif (measured.padding_seen or 0.0) > self.SEEN:
            message = "What stands in the padding changes the layer's output at real positions."
            evidence = {"relative_change": measured.padding_seen, "limit": self.SEEN}
            yield self.finding(layer.name, message, evidence, cause="content")


class SeesLaterPositions(MeasuredRule, code="NS514", severity="warning", kinds=EVERY_KIND):
    """In a network that is causal up to this layer, its output changes with later positions.

    The content of a window of positions is changed. Up to the layer nothing before the window
    changes and something behind it does, so the network looks back in time alone; but the layer's
    output changes by more than 2% before the window.

    Why is this bad: statistics over the time axis hold the future. Streaming, or generating step by
        step, gives other results than training did.
    When it is fine: a network that always gets the whole sequence at once.
    Example:
        class Causal(nn.Conv1d):
            def forward(self, x):
                return super().forward(F.pad(x, (2, 0)))

        model = nn.Sequential(Causal(1, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), Causal(8, 1, 3))
        batches = [torch.randn(8, 1, 64)]
    Use instead:
        class PerStep(nn.LayerNorm):
            def forward(self, x):
                return super().forward(x.transpose(1, 2)).transpose(1, 2)

        model = nn.Sequential(Causal(1, 8, 3), PerStep(8), nn.ReLU(), Causal(8, 1, 3))
    """

    SEEN = 0.02
    remedy = "Normalize each position over its channels, or cumulatively over the past."
    reference = "https://github.com/Wan-Video/Wan2.1/issues/294"

    def check_measured(self, layer: Layer, measured: Measured, exam: Examination) -> Results:
        if (measured.later_seen or 0.0) > self.SEEN:
            message = "Its statistics run over time: outputs depend on later positions."
            evidence = {"relative_change": measured.later_seen, "limit": self.SEEN}
            yield self.finding(layer.name, message, evidence)
