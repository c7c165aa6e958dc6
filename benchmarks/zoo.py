"""Hold `check` and `watch` against the normalization layers of published architectures.

    PYTHONPATH=ZOO python benchmarks/zoo.py rows.jsonl --seconds 240    # goes on where it stopped
    PYTHONPATH=ZOO python benchmarks/zoo.py rows.jsonl --table

Layers are counted independently of normscope: modules whose class is called after a normalization
and that hold no other. Each model is checked as it is built: without batches, and with them in eval
and in train mode. Twenty steps of it are watched, every one, and compared bitwise with the same
steps unwatched.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from zoo_models import Specimen, specimens

import normscope
from normscope import errors
from normscope.user_models.batch_reader import tensors_in

STEPS = 20
CALLED = re.compile(r"norm(?!al|ed|free|flow)|^(BN|LN|GRN)\d?|GlobalResponse", re.IGNORECASE)
NO_NORMALIZATION = {"NoNorm", "GraphSizeNorm", "MeanSubtractionNorm", "LocalResponseNorm"}
"""Called so, but affine maps, a constant factor, a shift and a local contrast: counted apart."""

FUNCTIONS = ("layer_norm", "rms_norm", "group_norm", "batch_norm", "instance_norm")


def counted(model: nn.Module) -> dict[str, str]:
    """Return {name: class} of the modules that are normalization layers by their class's name."""
    found = {}
    for name, module in model.named_modules():
        kind = type(module).__name__
        inside = [m for m in module.modules() if m is not module]
        holds = any(CALLED.search(type(m).__name__) for m in inside)
        weights = [p for p in module.parameters() if sum(size > 1 for size in p.shape) > 1]
        own = type(module).__module__.startswith("torch.nn.utils.")
        if (
            CALLED.search(kind)
            and not own
            and not holds
            and not weights
            and kind not in NO_NORMALIZATION
        ):
            found[name] = kind
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--again", nargs="*", default=(), help="names of models to run once more")
    parser.add_argument("--library", help="only this one")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.table:
        print(table(read_rows(options.rows)))
        return
    start = time.monotonic()
    done = {name for name in read_rows(options.rows) if name not in options.again}
    for specimen in specimens():
        name = f"{specimen.library} {specimen.name}"
        if options.library not in (None, specimen.library):
            continue
        if name in done or (options.again and name not in options.again):
            continue
        if time.monotonic() - start > options.seconds:
            print("more are left")
            return
        _append(options.rows, {"model": name, "failure": "it ended the process"})
        row = {"model": name, **_row(specimen)}
        _append(options.rows, row)
        print(json.dumps(row), flush=True)


def read_rows(path: Path) -> dict[str, dict[str, Any]]:
    """Return {model: its last row}."""
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {row["model"]: row for row in rows}


def _append(path: Path, row: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def _row(specimen: Specimen) -> dict[str, Any]:
    start = time.process_time()
    try:
        torch.manual_seed(0)
        model = specimen.make()
        batches = [specimen.batch() for _ in range(3)]
    except Exception as error:
        return {"failure": f"{type(error).__name__}: {error}"[:200]}
    there = counted(model)
    row: dict[str, Any] = {"there": len(there)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        row |= _checked(model, batches, there)
    row |= _watched(specimen, batches, there)
    row["seconds"] = round(time.process_time() - start, 1)
    return row


def _checked(model: nn.Module, batches: list[Any], there: dict[str, str]) -> dict[str, Any]:
    from normscope.examining.examine import examine
    from normscope.judge.check_report import judge

    row: dict[str, Any] = {}
    try:
        seen: set[str] = set()
        for name, given in (("static", None), ("train", batches[:2]), ("eval", batches)):
            model.train(name == "train")
            examination = examine(model, given)
            report = judge(examination)
            seen = {layer.name for layer in examination.layers}
            row[name] = _findings(report)
        row["check"] = len(seen & there.keys())
        row["check_missed"] = dict(Counter(kind for n, kind in there.items() if n not in seen))
        names = {f.layer for f in report if f.code == "NS001"}
        row["named"] = len(names & (there.keys() - seen))
        row["check_other"] = sorted(seen - there.keys())[:5]
    except errors.NormscopeError as error:
        row["check_refused"] = str(error)[:200]
    return row


def _findings(report: Any) -> dict[str, int]:
    """Return {severity code: layers} of what is above an info."""
    found = Counter(f"{f.severity} {f.code}" for f in report if f.severity != "info")
    return dict(found)


def _watched(specimen: Specimen, batches: list[Any], there: dict[str, str]) -> dict[str, Any]:
    def watch(model: nn.Module, optimizer: Any) -> Any:
        return normscope.watch(model, optimizer=optimizer, every=1)

    row: dict[str, Any] = {}
    plain = _trained(specimen, batches, lambda model, optimizer: None)[0]
    with warnings.catch_warnings(record=True) as said, contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("always")
        try:
            watched, _, watcher = _trained(specimen, batches, watch)
        except errors.NormscopeError as error:
            return {"watch_refused": str(error)[:200]}
    texts = [str(w.message) for w in said if issubclass(w.category, errors.NormscopeWarning)]
    recording = watcher.recording
    recorded = {name.partition("#")[0] for name in recording.layers}
    row["watch"] = len(recorded & there.keys())
    row["watch_missed"] = dict(Counter(kind for n, kind in there.items() if n not in recorded))
    row["stopped"] = any("The recording stopped" in text for text in texts)
    row["bitwise"] = plain == watched
    if not row["bitwise"]:
        row["repeats"] = _trained(specimen, batches, lambda model, optimizer: None)[0] == plain
    row["said"] = [text[:160] for text in texts][:4]
    return row


def _trained(
    specimen: Specimen, batches: list[Any], observe: Callable[[nn.Module, Any], Any]
) -> tuple[list[bytes], nn.Module, Any]:
    """Return losses and weights of twenty steps as bytes, the model, and what observed it."""
    torch.manual_seed(0)
    np.random.seed(0)
    model = specimen.make().train()
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trainable, 1e-3, momentum=0.9)
    watcher = observe(model, optimizer)
    bits = []
    with watcher if watcher is not None else contextlib.nullcontext():
        for step in range(STEPS):
            batch = batches[step % len(batches)]
            output = model(**batch) if isinstance(batch, dict) else model(batch[:2])
            loss = sum(_loss(t) for t in tensors_in(output) if t.requires_grad)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trainable, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            bits.append(loss.detach().numpy().tobytes())
    tensors = (t for t in model.state_dict().values() if isinstance(t, Tensor) and t.numel())
    bits += [t.contiguous().flatten().view(torch.uint8).numpy().tobytes() for t in tensors]
    return bits, model, watcher


def _loss(values: Tensor) -> Tensor:
    values = values.float().flatten()
    return (values * torch.linspace(-1, 1, len(values))).mean()


def _by_library(rows: dict[str, dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    built = {name: row for name, row in rows.items() if "there" in row}
    for library in dict.fromkeys(name.split()[0] for name in built):
        yield library, [row for name, row in built.items() if name.split()[0] == library]
    yield "all", list(built.values())


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Return a Markdown table, a row per library."""
    columns = (
        "library", "models", "layers there", "seen by check", "named", "seen by watch",
        "check refuses", "watch refuses", "stopped", "bitwise", "models with an error",
        "with a warning but NS506",
    )  # fmt: skip
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for library, each in _by_library(rows):
        kinds = ("static", "eval", "train")
        found = [{code for kind in kinds for code in row.get(kind, ())} for row in each]
        values = (
            library, len(each), *(sum(row.get(k, 0) for row in each)
                                  for k in ("there", "check", "named", "watch")),
            sum("check_refused" in row for row in each),
            sum("watch_refused" in row and row["there"] > 0 for row in each),
            sum(row.get("stopped", False) for row in each),
            sum(row.get("bitwise", "watch_refused" in row) for row in each),
            sum(any(c.startswith("error") for c in codes) for codes in found),
            sum(any(c.startswith("warning") for c in codes - {"warning NS506"}) for codes in found),
        )  # fmt: skip
        lines.append("| " + " | ".join(map(str, values)) + " |")
    failed = [name for name, row in rows.items() if "failure" in row]
    lines += [f"\nnot built: {name}: {rows[name]['failure']}" for name in failed]
    return "\n".join(lines)


if __name__ == "__main__":
    if "transformers" in sys.modules:
        sys.modules["transformers"].logging.set_verbosity_error()
    main()
