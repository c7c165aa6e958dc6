"""Rules about what was recognized: NS0."""

from __future__ import annotations

from normscope.judge.rule import EVERY_KIND, Results, Rule
from normscope.records.examination import Examination

DOUBTFUL = ("weight and epsilon", "class name")
"""Where these alone told of a layer, a call that shows no normalization is worth a word."""


class UnknownNormalization(Rule, code="NS001", severity="info", kinds=()):
    """Something looks like a normalization, and is no layer that can be judged: by what it is
    called, or because a function is called where a layer could stand.

    Modules are recognized by PyTorch's classes, by what they hold (running statistics; a vector
    and an epsilon), by a class that says its kind (`RMSNorm`, `LayerNorm2d`), and with batches by
    what a call does to its input.

    Why is this bad: nothing is judged or recorded of it, and a report without findings would look
        as if it had been.
    When it is fine: an affine map that is only called a norm, a local contrast, weights that are
        normalized; a function without parameters.
    Example:
        class PowerNorm(nn.Module):
            def __init__(self, width):
                super().__init__()
                self.gain = nn.Parameter(torch.ones(width))

            def forward(self, x):
                return self.gain * x.sign() * x.abs().sqrt()

        model = nn.Sequential(nn.Linear(8, 8), PowerNorm(8), nn.LayerNorm(8))
    Use instead:
        model = nn.Sequential(nn.Linear(8, 8), nn.RMSNorm(8), nn.LayerNorm(8))
    """

    remedy = (
        "Give batches, so that a call can show what it does, or make its class known with "
        "normscope.user_models.norm_layers.register_normalization."
    )
    reference = "https://docs.pytorch.org/docs/stable/nn.html#normalization-layers"

    def check(self, exam: Examination) -> Results:
        for each in exam.unknown:
            if each.function:
                message = "A normalization is called as a function, which no layer stands for."
                evidence = {"called": each.reason.removesuffix(" in its forward")}
                remedy = "Use a layer of torch.nn in its place, if it is to be judged."
                where = each.name or each.type
                yield self.finding(where, message, evidence, cause="function", remedy=remedy)
            else:
                message = "It is called a normalization, and was not recognized as one."
                yield self.finding(each.name, message, {"class": each.type}, cause="name")
        for layer in exam.of_kind(*EVERY_KIND):
            found = layer.recognition
            if found is not None and found.by in DOUBTFUL and found.explained is False:
                message = "It was taken for a normalization, and a call shows another function."
                evidence = {"taken for": layer.kind, "by": found.by}
                yield self.finding(layer.name, message, evidence, cause="other function")
