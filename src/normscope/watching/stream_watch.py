"""When a session looks at the residual stream, and what it says of what it did not find."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.overrides import _get_current_function_mode

from normscope.user_models.wrappers import local_part
from normscope.watching.observe import Call
from normscope.watching.residual_stream import ResidualStream
from normscope.watching.row_buffers import column
from normscope.watching.step_writer import Row, WatchedLayer
from normscope.watching.stream_measures import update_ratio
from normscope.words import listed, plural

NAMED = 3


class StreamWatch:
    """Looks at the residual stream of the forwards of recorded steps, if it was asked for.

    Args:
        wanted: whether it was.
        layers: the watched layers.
        spend: is told when a measurement has begun.
        note: says once per reason what is not seen.
    """

    def __init__(
        self, wanted: bool, layers: Sequence[WatchedLayer], spend: Callable[[float], None],
        note: Callable[[str, str], None],
    ):  # fmt: skip
        self.wanted = wanted
        self._layers, self._spend, self._note = layers, spend, note
        self._mode: ResidualStream | None = None
        self._used: list[tuple[str, Tensor, Tensor]] = []  # layer, gain, its value before the step

    def begin(self) -> None:
        """Look at the forward that begins."""
        infos = [layer.observer.info for layer in self._layers]
        convolutional = any(info.kind in ("batch", "group", "instance") for info in infos)
        widths = {info.channels for info in infos}
        self._mode = ResidualStream(widths, convolutional, self._spend, self._failed)
        self._mode.__enter__()

    def called(self, call: Call, x: Tensor | None) -> None:
        """Take note of a layer's call with this input."""
        if self._mode is not None:
            self._mode.called(call, x)

    def end(self, model: nn.Module | None = None) -> None:
        """Look away. Of the model, if it is given, say what was not seen in its forward."""
        mode, self._mode = self._mode, None
        if mode is None:
            return
        if _get_current_function_mode() is mode:
            mode.__exit__(None, None, None)
        mode.end()
        if model is not None:
            self._name_unseen(mode, model)

    def _name_unseen(self, mode: ResidualStream, model: nn.Module) -> None:
        if not mode.sums:
            self._note(
                "no residual sums",
                f"No residual sum was recognized in a forward of {type(model).__name__}: none of "
                "its additions joins a value with what a matrix product or a convolution has made "
                "of it (or it is fused, checkpointed, or runs without gradients). Of the residual "
                "stream nothing is recorded.",
            )
        called = [n for n, m in model.named_modules() if type(m).__name__.endswith("Attention")]
        named = [n for n in called if not any(other.startswith(f"{n}.") for other in called)]
        if mode.attentions < len(named):
            self._note(
                "no attention",
                f"Of {plural(len(named), 'attention')} ({listed(named, NAMED)}) the logits "
                f"of {mode.attentions} are recorded: elsewhere no F.scaled_dot_product_attention "
                "and no softmax over products of queries and keys is seen in a forward.",
            )

    def _failed(self, error: Exception) -> None:
        self._note(
            "stream failed",
            f"A part of the residual stream cannot be measured: {type(error).__name__}: {error}",
        )

    def step_begins(self, gains: Row) -> None:
        """Keep the gains as they are before the optimizer's step."""
        self._used = [(at.layer, gain, local_part(gain).detach().clone()) for at, gain in gains]

    def step_ends(self) -> list[tuple[Any, Tensor]]:
        """Return each gain's update ratio, a row of the step that has ended."""
        used, self._used = self._used, []
        return [
            (column(name, "update_ratio", ()), update_ratio(before, local_part(gain).detach()))
            for name, gain, before in used
        ]
