"""Weights & Biases: one W&B run per run, online or offline. Only what the records hold is sent."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from normscope.errors import InputError
from normscope.records.files import write_json
from normscope.records.histogram import Histogram
from normscope.records.recording import Recording
from normscope.records.recording_parts import FilePart
from normscope.records.regular_files import read_json
from normscope.show.sinks.sink import Log, WatcherSink

LEDGER = "normscope-runs.json"
"""In W&B's folder: which W&B run belongs to which run, and the last step that it was given."""


class WandB(WatcherSink):
    """A W&B project, for `watch(sinks=[...])` and studies.

    W&B runs of our own are made beside one that the program may have; its steps are left alone. No
    code, no git state, no list of packages and no terminal output is uploaded.

    Args:
        project: its name.
        mode: "online", "offline" (files for `wandb sync` in `directory`/wandb) or "disabled"; by
            default what the environment variable WANDB_MODE says, else online.
        directory: where W&B keeps its files.
        entity: the user or team, if not the default one.

    Raises:
        InputError: if the package wandb is not installed or too old, the mode is none, or W&B is to
            be online and has no API key or does not answer.
    """

    def __init__(
        self,
        project: str,
        mode: str | None = None,
        directory: str | Path = ".",
        entity: str | None = None,
    ):
        try:
            import wandb
            from packaging.version import Version
        except ImportError:
            raise InputError("W&B needs a package: pip install 'normscope[wandb]'.") from None
        if Version(wandb.__version__) < Version("0.19.10"):
            raise InputError(
                f"wandb {wandb.__version__} keeps one run per program; expected 0.19.10 or newer."
            )
        if mode not in (None, "online", "offline", "disabled"):
            raise InputError(f"Unknown mode {mode!r} of W&B. Known: online, offline, disabled.")
        super().__init__()
        self.project, self.entity = project, entity
        self.mode = mode or os.environ.get("WANDB_MODE") or "online"
        self.directory = Path(directory)
        if self.mode == "online" and not _logged_in(wandb):
            raise InputError(
                "W&B has no API key: run `wandb login`, or set WANDB_MODE=offline to keep the "
                "files here."
            )

    @property
    def place(self) -> str:
        """Where to look, for messages."""
        return f"W&B project {self.project}"

    def watched_name(self, recording: Recording) -> str:
        """The recording's file and a checksum of where it is; the model's name without a file."""
        part = recording.parts[0]
        if not isinstance(part, FilePart):
            return recording.header.model
        place = hashlib.sha256(str(part.path.absolute()).encode()).hexdigest()[:6]
        return f"{part.path.stem}-{place}"

    def open(
        self,
        name: str,
        config: Mapping[str, Any],
        *,
        group: str = "",
        axis: str = "step",
        resume: bool = True,
    ) -> Log:
        """The W&B run of this name and group, made or taken up again."""
        ledger = _Ledger(
            self.directory / "wandb" / LEDGER, f"{self.project}/{group}/{name}", resume
        )
        return _WandBLog(lambda: self._init(ledger, name, config, group), ledger, axis)

    def _init(self, ledger: _Ledger, name: str, config: Mapping[str, Any], group: str) -> Any:
        import wandb

        self.directory.mkdir(parents=True, exist_ok=True)
        return wandb.init(
            project=self.project,
            entity=self.entity,
            id=ledger.id,
            name=name or None,
            group=group or None,
            config=dict(config),
            dir=str(self.directory),
            mode=self.mode,  # pyright: ignore[reportArgumentType]: checked above
            resume="allow" if self.mode == "online" and ledger.last else None,
            reinit="create_new",
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, disable_code=True,
                x_disable_stats=True, x_disable_meta=True, x_save_requirements=False,
            ),
        )  # fmt: skip


def _logged_in(wandb: Any) -> bool:
    """Return whether W&B can begin a run without asking for a key in the middle of a training."""
    if "WANDB_IDENTITY_TOKEN_FILE" in os.environ:
        return True
    try:
        return bool(wandb.login(prompt=False))
    except wandb.errors.Error as error:
        told = str(error).rstrip(".")
        raise InputError(
            f"W&B did not let us in: {told}. WANDB_MODE=offline keeps the files here."
        ) from error
    except TypeError:  # of a version that knows no `prompt`
        return bool(wandb.api.api_key)


class _WandBLog:
    """One W&B run, made when there is something to write.

    Its own step only counts rows; `axis` is what curves are drawn over.
    """

    def __init__(self, init: Callable[[], Any], ledger: _Ledger, axis: str):
        self._init, self._ledger, self._axis = init, ledger, axis
        self._opened: Any = None

    @property
    def _run(self) -> Any:
        if self._opened is None:
            self._opened = self._init()
            self._opened.define_metric(self._axis)
            self._opened.define_metric("*", step_metric=self._axis)
        return self._opened

    @property
    def last(self) -> int:
        """See `Log.last`."""
        return self._ledger.last

    def write(
        self, step: int, scalars: Mapping[str, float], histograms: Mapping[str, Histogram]
    ) -> None:
        """See `Log.write`."""
        import wandb

        drawn = {
            tag: wandb.Histogram(np_histogram=(each.counts, each.edges))  # pyright: ignore[reportArgumentType]: arrays do
            for tag, each in histograms.items()
        }
        self._run.log({self._axis: step, **scalars, **drawn})
        self._ledger.keep(step)

    def figure(self, step: int, name: str, png: Path) -> None:
        """See `Log.figure`."""
        import wandb

        self._run.log({self._axis: step, name: wandb.Image(str(png))})
        self._ledger.keep(step)

    def flush(self) -> None:
        """W&B passes on by itself; what must last is the ledger."""
        if self._opened is not None:
            self._ledger.save()

    def close(self) -> None:
        """See `Log.close`."""
        if self._opened is not None:
            self._ledger.save()
            self._opened.finish()


class _Ledger:
    """A run's W&B id and the last step given, in a file: offline, W&B itself cannot tell."""

    def __init__(self, path: Path, key: str, resume: bool):
        self._path, self._key = path, key
        entry = _entries(path).get(key, {}) if resume else {}
        self.id: str = entry.get("id") or uuid.uuid4().hex[:16]
        self.last: int = entry.get("last", 0)

    def keep(self, step: int) -> None:
        """Remember a step that was given."""
        self.last = step

    def save(self) -> None:
        """Write the file, with the other runs' entries as they are."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_json(
            self._path, {**_entries(self._path), self._key: {"id": self.id, "last": self.last}}
        )


def _entries(path: Path) -> dict[str, Any]:
    try:
        entries = read_json(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read; remove it to begin new W&B runs.") from error
    return entries if isinstance(entries, dict) else {}
