"""NS811 to NS814: rules about the residual stream, from a recording with `stream=True`."""

from __future__ import annotations

import numpy as np

from normscope.judge.rule import HistoryRule, Results
from normscope.records.examination import Examination, History, LayerHistory

TOKEN_KINDS = ("layer", "rms")
"""Layers of transformers. Pixels of a convolutional network may well be alike."""


def beside_tokens(history: History) -> list[LayerHistory]:
    """Return the layers beside a stream of tokens: also what stands in a normalization's place,
    where the network has attention.
    """
    attention = any(layer.attention for layer in history.layers)
    kinds = (*TOKEN_KINDS, "activation") if attention else TOKEN_KINDS
    return [layer for layer in history.layers if layer.kind in kinds]


class TokensCollapse(HistoryRule, code="NS811", severity="warning"):
    """At the end of the recording, the mean cosine between two tokens of a sequence is above 0.99
    in the residual stream.

    Attention without skips takes all tokens there, doubly exponentially with depth (the
    reference). The limit is our choice. Nothing is said where they are alike in the last sum
    alone: a classifier is about to average it.

    Why is this bad: all positions carry the same vector. Queries and keys get no gradient, and the
        blocks behind cannot tell positions apart.
    When it is fine: sequences that repeat one token, or behind the pooling of a classifier.
    Example (inside a transformer):
        x = self.attention(self.norm1(x))
        x = self.mlp(self.norm2(x))
    Use instead:
        x = x + self.attention(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
    """

    LIMIT = 0.99
    remedy = "Look for skips that are missing or scaled away, and for one vector added to all."
    reference = "https://arxiv.org/abs/2103.03404"

    def check_history(self, history: History, exam: Examination) -> Results:
        measured = [each for each in beside_tokens(history) if each.token_cosine is not None]
        alike = [layer for layer in measured if (layer.token_cosine or 0.0) > self.LIMIT]
        if len(measured) > 1 and alike == measured[-1:]:
            return
        for layer in alike:
            message = "All tokens of a sequence are alike in the residual stream."
            yield self.finding(
                layer.name, message, {"cosine": layer.token_cosine, "limit": self.LIMIT}
            )


class ExplodingLogits(HistoryRule, code="NS812", severity="warning"):
    """At the end of the recording, the largest product of a query and a key, scaled, is above 100.

    100 is the limit to which Kimi K2's training held them (arXiv 2507.20534). Without
    normalized queries and keys they grew until attention was one-hot and the training of large
    vision transformers diverged (the reference).

    Why is this bad: the softmax becomes one-hot, its gradient vanishes, and in 16 bits a logit of
        this size is rounded to halves. Divergence often follows.
    When it is fine: attentions that are meant to copy exactly one position.
    Example (inside a transformer):
        q, k = self.query(x), self.key(x)
        mixed = F.scaled_dot_product_attention(q, k, self.value(x))
    Use instead:
        q, k = self.query_norm(self.query(x)), self.key_norm(self.key(x))
        mixed = F.scaled_dot_product_attention(q, k, self.value(x))
    """

    LIMIT = 100.0
    remedy = "Normalize queries and keys (QK-norm), lower the learning rate, or clip the logits."
    reference = "https://arxiv.org/abs/2302.05442"

    def check_steps(self, layer: LayerHistory, history: History) -> Results:
        if layer.attention and layer.attention[0] > self.LIMIT:
            largest, entropy = layer.attention
            evidence = {"largest_logit": largest, "limit": self.LIMIT, "entropy_share": entropy}
            yield self.finding(layer.name, "The attention's logits are very large.", evidence)


class MassiveChannel(HistoryRule, code="NS813", severity="info"):
    """At the end of the recording, one channel has more than half of the residual stream's sum of
    squares, and a value of more than 20 times the root mean square.

    Why is this bad: the norm behind divides all other channels by it; rounding to 8 bits, which
        goes by the largest value, leaves them nothing.
    When it is fine: large language models grow such channels as attention sinks, and live with
        them; hence an info.
    Example (inside a transformer):
        x = self.embed(tokens)
        x[..., 0] = positions  # up to the length of the sequence
    Use instead:
        x = self.embed(tokens) + self.position(positions)
    """

    LIMIT, LARGEST = 0.5, 20.0
    remedy = "Keep this channel out of quantization, and its norm in 32 bits."
    reference = "https://arxiv.org/abs/2402.17762"

    def check_history(self, history: History, exam: Examination) -> Results:
        for layer in beside_tokens(history):
            if not layer.stream:
                continue
            rms, largest, _, share = layer.stream
            if share > self.LIMIT and largest > self.LARGEST * rms:
                evidence = {"share": share, "limit": self.LIMIT, "largest_over_rms": largest / rms}
                message = "One channel is most of the residual stream."
                yield self.finding(layer.name, message, evidence)


class StreamGrowsExponentially(HistoryRule, code="NS814", severity="warning"):
    """At the end of the recording, the residual stream's variance grows by more than 8 times from
    the middle to the last sum, and by more than 8 times from the first to the middle.

    Where each branch adds as much as every other, the variance grows linearly: 2 times from the
    middle to the end, and 4 times where branches grow in proportion to the depth. With a norm
    before each branch alone, exponential growth was seen in large models (the reference); a norm
    behind the branch as well keeps it linear. The limit is our choice.

    Why is this bad: the early blocks are lost in the sum, and deep networks leave the range of 16
        bits.
    When it is fine: large pre-norm models that train well in bf16 or 32 bits, whose range is wide.
    Example (inside a transformer):
        x = self.norm1(x) + x + self.attention(x)  # the branch reads what is not normalized
        x = x + self.mlp(x)
    Use instead:
        x = x + self.attention(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
    """

    FEWEST, LIMIT = 6, 8.0
    remedy = "Normalize what each branch reads, and what it adds as well (peri-LN)."
    reference = "https://arxiv.org/abs/2502.02732"

    def check_history(self, history: History, exam: Examination) -> Results:
        beside = [layer for layer in beside_tokens(history) if layer.stream]
        if len(beside) < self.FEWEST:
            return
        variance = np.square([layer.stream[0] for layer in beside])
        first, middle, last = variance[0], variance[len(variance) // 2], variance[-1]
        early, late = middle / max(first, 1e-30), last / max(middle, 1e-30)
        if min(early, late) > self.LIMIT:
            message = "The residual stream grows exponentially with depth."
            evidence = {"to_the_middle": early, "to_the_end": late, "limit": self.LIMIT}
            yield self.finding(beside[-1].name, message, evidence)


STREAM_RULES = (TokensCollapse, ExplodingLogits, StreamGrowsExponentially, MassiveChannel)
"""The gravest first; `summary()` asks them, too."""
