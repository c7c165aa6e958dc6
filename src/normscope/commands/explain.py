"""`normscope explain`: trains a network or finds it trained, measures one layer, writes the record, and shows it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from normscope.errors import NormscopeError
from normscope.records.explanation import (
    EXPLANATION_NAME,
    Explanation,
    Forgotten,
    load_if_there,
    store_explanation,
)
from normscope.records.run import ENDED, load_run
from normscope.show.explanation_text import show
from normscope.show.figures import explanation_poster as explanation_figure
from normscope.studies.directory import RunDirectory, StudyDirectory
from normscope.studies.environment import describe_environment
from normscope.studies.execution import threads_per_job
from normscope.studies.explain_layer import choose_layer, explain_layer
from normscope.studies.explain_options import ExplainOptions
from normscope.studies.grid import Grid, build_for, lay_out
from normscope.studies.pipeline import known_status, tasks_of, train_all
from normscope.studies.spec import CompareOptions, RunSpec
from normscope.studies.threads import using_threads
from normscope.studies.train_mode_evaluation import Advance, forget_eval
from normscope.studies.trained import trained_network

FIGURE_NAME = "explanation.png"

FILES = (FIGURE_NAME, EXPLANATION_NAME)


@dataclass(frozen=True, eq=False)
class ExplanationResult:
    """What `explain` made: the folder, and the record that the text and the figure were made from."""

    directory: Path
    explanation: Explanation


def explain(
    options: ExplainOptions | None = None, console: Console | None = None
) -> ExplanationResult:
    """Work one batch normalization layer of a trained network out on one real batch, as text and as
    a figure.

    The network is trained unless the folder holds it trained. Accuracies with eval() forgotten are
    measured unless the folder's record holds them for the same network, machine and versions.

    Args:
        options: as `normscope explain --help` says; None takes the defaults.
        console: where to print; None prints to standard output.

    Raises:
        InputError: for settings, data or a layer that cannot be used.
        NormscopeError: if the training failed or diverged.
        StorageError: if the folder cannot be written. Finished epochs are kept.
    """
    options = options or ExplainOptions()
    console = console or Console()
    grid = lay_out(options.study)
    spec = dataclasses.replace(grid.specs[0], seed=options.seed)
    grid = dataclasses.replace(grid, specs=(spec,))
    choice = choose_layer(build_for(grid.dataset, spec), options.layer, spec.norm, options.channel)
    study = StudyDirectory.create(options.directory)
    run = study.run(spec)
    path = study.path / EXPLANATION_NAME
    known = load_if_there(path)
    threads = threads_per_job(spec.device, 1, grid.dataset.train_images.shape[1])
    _train(spec, grid, study, options.study, console)
    model = trained_network(run, spec, grid.dataset)

    meta = _describe(spec, run, choice.others)
    if known is not None and (known.meta["run"], known.meta["environment"]) == (
        meta["run"],
        meta["environment"],
    ):
        forgotten = known.forgotten
    else:
        with using_threads(threads):
            forgotten = _forget_eval(
                lambda advance: forget_eval(model, grid.dataset, spec, advance), console
            )
    explanation = explain_layer(
        model, choice, grid.dataset, spec, channel=options.channel, forgotten=forgotten, meta=meta
    )
    store_explanation(explanation, path)
    explanation_figure.draw(explanation, study.path / FIGURE_NAME)
    show(explanation, console)
    console.print(
        f"Written to {study.path}: {', '.join(FILES)}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return ExplanationResult(study.path, explanation)


def _train(
    spec: RunSpec, grid: Grid, study: StudyDirectory, options: CompareOptions, console: Console
) -> None:
    """Bring the run to its end.

    Raises:
        NormscopeError: if it failed or diverged: there is no layer to explain then.
    """
    status = known_status(study.run(spec))
    if status in ENDED:
        label = f"{spec.model} on {spec.data}, seed {spec.seed}"
        console.print(f"{label}: trained already.", highlight=False, markup=False, soft_wrap=True)
    else:
        result = train_all(tasks_of(grid, study, options, console), grid, study, console)[spec.name]
        if result.status == "failed":
            raise NormscopeError(f"The training failed: {result.error}")
        status = result.status
    if status == "diverged":
        raise NormscopeError(
            f"The training diverged at learning rate {spec.learning_rate:g}: its layers hold no finite numbers to "
            "explain. Try a smaller --learning-rate."
        )


def _forget_eval(measure: Callable[[Advance], Forgotten], console: Console) -> Forgotten:
    """Measure, and say meanwhile how far it is where somebody is watching."""
    with console.status("Forgetting eval()") as status:
        return measure(
            lambda done, total: status.update(
                f"Forgetting eval(): {done} of {total} orders of the images"
            )
        )


def _describe(spec: RunSpec, run: RunDirectory, others: tuple[str, ...]) -> dict[str, Any]:
    """What the record says of the run and the machine."""
    record = load_run(run.path)
    return {
        "run": run.path.name,
        "spec": json.loads(spec.to_json()),
        "data": record.meta["data"],
        "test_accuracy": record.final("test_accuracy"),
        "environment": describe_environment(spec.device),
        "other_layers": list(others),
    }
