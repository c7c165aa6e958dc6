"""TensorBoard: a folder of event files per run, by TensorBoard's own writer, without torch."""

from __future__ import annotations

import importlib
import json
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from normscope.arguments import given_path
from normscope.errors import InputError
from normscope.records.histogram import Histogram
from normscope.records.recording import Recording
from normscope.show.sinks.sink import Log, WatcherSink

SUFFIX = ".normscope"
"""Ends the names of the event files that are ours; others in the folder are not read."""


class TensorBoard(WatcherSink):
    """A TensorBoard folder, for `watch(sinks=[...])` and studies.

    Args:
        directory: the log folder. A watched training writes into it, a study into one subfolder per
            run. Give it to no other writer: TensorBoard follows one event file of a folder at a
            time.

    Raises:
        InputError: if the package tensorboard is not installed, or the directory is a file.
    """

    def __init__(self, directory: str | Path):
        try:
            import tensorboard  # noqa: F401
        except ImportError:
            raise InputError(
                "TensorBoard needs a package: pip install 'normscope[tensorboard]'."
            ) from None
        super().__init__()
        self.directory = given_path(directory, "The folder of TensorBoard")
        if self.directory.exists() and not self.directory.is_dir():
            raise InputError(f"{directory} is a file; expected a folder for TensorBoard.")

    @property
    def place(self) -> str:
        """Where to look, for messages."""
        return f"TensorBoard's folder {self.directory}"

    def begin(self, after: int | None = None) -> None:
        """See `WatcherSink.begin`."""
        if after is None and _last_step(self.directory):
            raise InputError(
                f"{self.place} holds another training already; give the new one another folder."
            )
        super().begin(after)

    def watched_name(self, recording: Recording) -> str:
        """Nothing: a watched training has the folder to itself."""
        return ""

    def open(
        self,
        name: str,
        config: Mapping[str, Any],
        *,
        group: str = "",
        axis: str = "step",
        resume: bool = True,
    ) -> Log:
        """The log in `directory/name`, continued if there is one; `group` and `axis` are unused."""
        return _TensorBoardLog(self.directory / name, config)


class _TensorBoardLog:
    """One folder. A step is one event, so that a file that was cut off holds whole steps."""

    def __init__(self, folder: Path, config: Mapping[str, Any]):
        self._folder, self._config = folder, config
        self.last = _last_step(folder)
        self._opened: Any = None

    @property
    def _writer(self) -> Any:
        """The writer of a file of our own, made when there is something to write."""
        if self._opened is None:
            from tensorboard.summary.writer.event_file_writer import EventFileWriter

            self._opened = EventFileWriter(str(self._folder), filename_suffix=SUFFIX)
            if not self.last:
                self._add(0, _text("config", self._config))
        return self._opened

    def write(
        self, step: int, scalars: Mapping[str, float], histograms: Mapping[str, Histogram]
    ) -> None:
        """See `Log.write`."""
        Summary = _messages("summary").Summary
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        values += [
            Summary.Value(tag=tag, histo=_proto(histogram)) for tag, histogram in histograms.items()
        ]
        self._add(step, Summary(value=values))
        self.last = step

    def figure(self, step: int, name: str, png: Path) -> None:
        """See `Log.figure`."""
        Summary = _messages("summary").Summary
        content = png.read_bytes()
        width, height = struct.unpack(">II", content[16:24])  # of the PNG's first chunk
        image = Summary.Image(
            width=width, height=height, colorspace=4, encoded_image_string=content
        )
        self._add(step, Summary(value=[Summary.Value(tag=name, image=image)]))
        self.last = step

    def flush(self) -> None:
        """See `Log.flush`."""
        if self._opened is not None:
            self._opened.flush()

    def close(self) -> None:
        """See `Log.close`."""
        if self._opened is not None:
            self._opened.close()

    def _add(self, step: int, summary: Any) -> None:
        event = _messages("event").Event(step=step, wall_time=time.time(), summary=summary)
        self._writer.add_event(event)


def _messages(name: str) -> Any:
    """TensorBoard's protocol messages, whose names exist at run time only."""
    return importlib.import_module(f"tensorboard.compat.proto.{name}_pb2")


def _last_step(folder: Path) -> int:
    """The largest step in the folder's event files of ours; a torn end is left out."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    files = sorted(folder.glob(f"*tfevents*{SUFFIX}"))
    return max(
        (event.step for file in files for event in EventFileLoader(str(file)).Load()), default=0
    )


def _proto(histogram: Histogram) -> Any:
    mean, std = histogram.moments
    return _messages("summary").HistogramProto(
        min=histogram.edges[0],
        max=histogram.edges[-1],
        num=histogram.n,
        sum=histogram.n * mean,
        sum_squares=histogram.n * (std**2 + mean**2),
        bucket_limit=histogram.edges[1:].tolist(),
        bucket=histogram.counts.tolist(),
    )


def _text(tag: str, config: Mapping[str, Any]) -> Any:
    """A run's settings as text: Markdown that shows names as they are."""
    from tensorboard.plugins.text.metadata import create_summary_metadata
    from tensorboard.util.tensor_util import make_tensor_proto

    Summary = _messages("summary").Summary
    lines = json.dumps(config, indent=1, default=str).splitlines()
    content = "\n".join(f"    {line}" for line in lines).encode()
    metadata = create_summary_metadata(display_name=tag, description="")
    return Summary(
        value=[Summary.Value(tag=tag, metadata=metadata, tensor=make_tensor_proto([content]))]
    )
