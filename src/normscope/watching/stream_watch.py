"""When a session looks at the residual stream, and what it says of what it did not find."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

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
        # {optimizer: a step and (layer, gain, its value before the optimizer's update)}
        self._used: dict[int, tuple[int, list[tuple[str, Tensor, Tensor]]]] = {}
        self._updated: tuple[int, set[str]] = 0, set()  # a step, and the gains that it has changed

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

    def step_begins(self, optimizer: object, step: int, gains: Row) -> None:
        """Keep the gains as they are before an optimizer's update of a step."""
        used = [(at.layer, gain, local_part(gain).detach().clone()) for at, gain in gains]
        self._used[id(optimizer)] = step, used

    def step_ends(self, optimizer: object) -> Iterator[tuple[int, Row]]:
        """Yield the step, and a row of its gains' update ratios: each once, of the first update."""
        if id(optimizer) not in self._used:
            return
        step, used = self._used.pop(id(optimizer))
        if not self.has_updates_of(step):
            self._updated = step, set()
        _, updated = self._updated
        fresh = [(name, gain, before) for name, gain, before in used if name not in updated]
        updated.update(name for name, _, _ in fresh)
        yield (
            step,
            [
                (column(name, "update_ratio", ()), update_ratio(before, local_part(gain).detach()))
                for name, gain, before in fresh
            ],
        )

    def has_updates_of(self, step: int | None) -> bool:
        """Tell whether a gain's update was looked at in this step."""
        return self._updated[0] == step
