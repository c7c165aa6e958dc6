"""`normscope explain`: one batch normalization layer of a trained network, on one real batch."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normscope.errors import InputError, NormscopeError, check_type
from normscope.studies.options import STUDIES, GridOptions, MachineOptions, NetworkOptions, grid_of
from normscope.studies.spec import Count, Name, Recipe

if TYPE_CHECKING:
    from rich.console import Console

    from normscope.data.dataset import Dataset
    from normscope.models.network import Network
    from normscope.records.explanation import Explanation, Forgotten
    from normscope.studies.directory import RunDirectory, StudyDirectory
    from normscope.studies.grid import Grid
    from normscope.studies.pipeline import Training
    from normscope.studies.spec import RunSpec

FIGURE_NAME = "explanation.png"
PAGE_NAME = "explanation.html"


@dataclass(frozen=True, kw_only=True)
class ExplainOptions(MachineOptions, NetworkOptions):
    """Show what one batch normalization layer does to one real batch, and what happens when eval()
    is forgotten.

    With no arguments: a small network is trained on the embedded digits for a few seconds; then one
    of its layers is worked through step by step, as text and as explanation.png. A second, tiny
    network is trained for explanation.html and runs inside it: change the batch, the momentum, the
    mode, and see what happens. The same command again does not train again; for another layer or
    channel of the same network it takes a few seconds.
    """

    layer: Name = None
    """Layer to explain, for example layer2.0.bn1; of a pattern such as '*.bn2', the first that
    matches (default: the first normalization of the first stage).
    """

    channel: Count = None
    """Channel whose numbers are worked through, counted from 0 (default: the one whose mean is
    furthest from 0).
    """

    norm: str = "batch"
    """Normalization of the network: batch, or module:callable that makes a torch.nn.BatchNorm2d."""

    learning_rate: float = 0.1
    """Learning rate of the first epoch."""

    epochs: Count = None
    """Passes over the training images before the layer is looked at (default: 5; digits: 10)."""

    seed: int = 0
    """Seed of the initialization, the order of the images and the augmentation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channel is not None and self.channel < 0:
            raise InputError(f"The channel is {self.channel}; expected 0 or more (--channel).")
        if self.seed < 0:
            raise InputError(f"The seed is {self.seed}; expected 0 or more.")

    @property
    def directory(self) -> Path:
        """The folder of what is written."""
        return self.out if self.out is not None else STUDIES / f"explain-{self.data}"

    @property
    def study(self) -> GridOptions:
        """A grid of one run, with the first seed.

        Nothing is fused: building the kernels, the first time on a machine, would take longer than
        these few epochs.
        """
        usual = 10 if self.data == "digits" else 5
        return grid_of(
            self,
            norms=(self.norm,),
            learning_rates=(self.learning_rate,),
            seeds=1,
            epochs=usual if self.epochs is None else self.epochs,
            capture_epochs=(),
            fusion="off",
        )

    @property
    def page_study(self) -> GridOptions:
        """The grid of the one run whose network runs inside the page."""
        return grid_of(
            self,
            norms=("batch",),
            learning_rates=(0.1,),
            seeds=1,
            epochs=14 if self.data == "digits" else 3,
            capture_epochs=(),
            fusion="off",
            precision="fp32",
            recipe=Recipe(model="tiny-cnn"),
        )


@dataclass(frozen=True, eq=False)
class ExplanationResult:
    """The result of `explain`: the folder, and the record behind the text and the figure."""

    directory: Path
    explanation: Explanation


def run_explain(options: ExplainOptions) -> int:
    """Run `normscope explain` and return its exit status."""
    explain(options)
    return 0


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
    from rich.console import Console

    from normscope.records.explanation import EXPLANATION_NAME, load_if_there, store_explanation
    from normscope.show.explanation_text import show
    from normscope.show.figures import explanation_poster
    from normscope.show.terminal import say
    from normscope.studies.explain_layer import choose_layer, explain_layer
    from normscope.studies.grid import build_for, lay_out
    from normscope.studies.measurements.run_context import trained_network
    from normscope.studies.pipeline import open_study

    options = ExplainOptions() if options is None else options
    check_type("options", options, ExplainOptions)
    grid = lay_out(options.study)
    grids = [grid, lay_out(options.page_study)]
    spec, page_spec = (dataclasses.replace(each.specs[0], seed=options.seed) for each in grids)
    grid = dataclasses.replace(grid, specs=(spec, page_spec))
    choice = choose_layer(build_for(grid.dataset, spec), options.layer, spec.norm, options.channel)
    with open_study(options.directory, options.study, console or Console()) as training:
        folder, run = training.study.path, training.study.run(spec)
        known = load_if_there(folder / EXPLANATION_NAME)
        _train(training, grid, options.study)
        model = trained_network(run, spec, grid.dataset)
        meta = _describe(spec, run, choice.others)
        same = ("run", "environment")
        if known is not None and all(known.meta[name] == meta[name] for name in same):
            forgotten = known.forgotten
        else:
            forgotten = _accuracies_without_eval(model, grid.dataset, spec, training.console)
        explanation = explain_layer(
            model,
            choice,
            grid.dataset,
            spec,
            channel=options.channel,
            forgotten=forgotten,
            meta=meta,
        )
        store_explanation(explanation, folder / EXPLANATION_NAME)
        explanation_poster.draw(explanation, folder / FIGURE_NAME)
        show(explanation, training.console)
        _write_page(training.study, page_spec, grid.dataset)
        training.written([PAGE_NAME, FIGURE_NAME, EXPLANATION_NAME], page=False)
        say(training.console, f"Open {folder / PAGE_NAME} in a browser.")
    return ExplanationResult(folder, explanation)


def _train(training: Training, grid: Grid, options: GridOptions) -> None:
    """Train the network and that of the page, both at once where there are two cores.

    Raises:
        NormscopeError: if one failed or diverged: there is no layer to explain then.
    """
    from normscope.studies.pipeline import known_meta

    for result in training.train(grid, options).values():
        if result.status == "failed":
            raise NormscopeError(f"The training failed: {result.error}")
    for spec in grid.specs:
        if known_meta(training.study.run(spec)).get("status") == "diverged":
            raise NormscopeError(
                f"The training diverged at learning rate {spec.learning_rate:g}: its layers hold "
                "no finite numbers to explain. Try a smaller --learning-rate."
            )


def _write_page(study: StudyDirectory, spec: RunSpec, dataset: Dataset) -> None:
    """Write the page, in which a trained network runs."""
    from normscope.models.tiny_cnn import TinyCNN
    from normscope.records.run import load_run
    from normscope.show.explanation_page.explanation_html import write_page
    from normscope.show.terminal import percent
    from normscope.studies.measurements.run_context import trained_network
    from normscope.studies.page_network import page_network

    run = study.run(spec)
    model = trained_network(run, spec, dataset)
    assert isinstance(model, TinyCNN)
    accuracy = percent(load_run(run.path).final("test_accuracy"))
    made = {
        "Data": dataset.source,
        "Training": f"{spec.epochs} epochs of SGD at {spec.learning_rate:g}, seed {spec.seed}",
        "Test accuracy": f"{accuracy} on all {len(dataset.test_labels):,} test images",
        "Run": run.path.name,
    }
    page = page_network(model, dataset, seed=spec.seed, source=dataset.source, made=made)
    write_page(page, study.path / PAGE_NAME)


def _accuracies_without_eval(
    model: Network, dataset: Dataset, spec: RunSpec, console: Console
) -> Forgotten:
    """Measure accuracies without eval(), and say meanwhile how far it is."""
    from normscope.studies.environment import using_threads
    from normscope.studies.measurements.evaluation_measurement import accuracies_without_eval

    with console.status("Forgetting eval()") as status, using_threads(spec.threads):
        return accuracies_without_eval(
            model,
            dataset,
            spec,
            lambda done, total: status.update(
                f"Forgetting eval(): {done} of {total} orders of the images"
            ),
        )


def _describe(spec: RunSpec, run: RunDirectory, others: tuple[str, ...]) -> dict[str, Any]:
    """Return what the record says of the run and the machine."""
    from normscope.records.run import load_run
    from normscope.studies.environment import describe_environment

    record = load_run(run.path)
    return {
        "run": run.path.name,
        "spec": json.loads(spec.to_json()),
        "data": record.meta["data"],
        "test_accuracy": record.final("test_accuracy"),
        "environment": describe_environment(spec.device),
        "other_layers": list(others),
    }
