"""`normscope explain`: one normalization layer of a trained network, on one real batch."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from normscope.arguments import judged
from normscope.errors import InputError, NormscopeError
from normscope.records.run_description import TRANSFORMERS
from normscope.studies.options import STUDIES, GridOptions, MachineOptions, NetworkOptions, grid_of
from normscope.studies.spec import Count, Name, Recipe
from normscope.words import plural

if TYPE_CHECKING:
    from rich.console import Console

    from normscope.data.dataset import Dataset
    from normscope.models.network import Network
    from normscope.records.explanation import Explanation, Forgotten
    from normscope.records.token_explanation import TokenExplanation
    from normscope.studies.directory import RunDirectory, StudyDirectory
    from normscope.studies.explain_layer import Choice
    from normscope.studies.grid import Grid
    from normscope.studies.pipeline import Training
    from normscope.studies.spec import RunSpec

FIGURE_NAME = "explanation.png"
PAGE_NAME = "explanation.html"
OPTIMIZER_NAMES = {"sgd": "SGD", "adamw": "AdamW", "muon": "Muon"}


@dataclass(frozen=True, kw_only=True)
class ExplainOptions(MachineOptions, NetworkOptions):
    """Show what one normalization layer does to one real batch, and for batch normalization what
    happens when eval() is forgotten.

    With no arguments: a small network is trained on the embedded digits for a few seconds; then one
    of its layers is worked through step by step, as text and as explanation.png. A second, tiny
    network is trained for explanation.html and runs inside it: change the batch, the momentum, the
    mode, and see what happens. The same command again does not train again; for another layer or
    channel of the same network it takes a few seconds. With --model vit, or byte-lm and --data
    text, it is a layer or RMS normalization, or dynamic tanh or erf, and the page runs it on one
    token.
    """

    layer: Name = None
    """Layer to explain, for example layer2.0.bn1; of a pattern such as '*.bn2', the first that
    matches (default: the first normalization of the first stage).
    """

    channel: Count = None
    """Channel whose numbers are worked through, counted from 0 (default: the one whose mean is
    furthest from 0).
    """

    norm: Name = None
    """Normalization of the network: batch, or module:callable that makes a torch.nn.BatchNorm2d; in
    transformers layer (the default there), layer-1p, rms, rms-1p, dyt, derf, or module:callable.
    """

    learning_rate: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="")] = None
    """Learning rate of the first epoch (default: 0.1; transformers: 0.003)."""

    epochs: Count = None
    """Passes over the training images before the layer is looked at (default: 5; digits: 10; text:
    1).
    """

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
        usual = {"digits": 10, "text": 1}.get(self.data, 5)
        transformer = self.recipe.model in TRANSFORMERS
        rate = (0.003 if transformer else 0.1) if self.learning_rate is None else self.learning_rate
        return grid_of(
            self,
            norms=(self.norm or ("layer" if transformer else "batch"),),
            learning_rates=(rate,),
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
    """The result of `explain`: the folder, and the numbers behind the text and the figure."""

    directory: Path
    explanation: Explanation | TokenExplanation


def run_explain(options: ExplainOptions) -> int:
    """Run `normscope explain` and return its exit status."""
    explain(options)
    return 0


@judged
def explain(
    options: ExplainOptions | None = None, console: Console | None = None
) -> ExplanationResult:
    """Work one normalization layer of a trained network out on one real batch, as text and as a
    figure.

    The network is trained unless the folder holds it trained. Accuracies with eval() forgotten, of
    batch normalization, are measured unless the folder's record holds them for the same network,
    machine and versions.

    Args:
        options: as `normscope explain --help` says; None takes the defaults.
        console: where to print; None prints to standard output.

    Raises:
        InputError: for settings, data or a layer that cannot be used.
        NormscopeError: if the training failed or diverged.
        StorageError: if the folder cannot be written. Finished epochs are kept.
    """
    from rich.console import Console

    from normscope.show.terminal import say
    from normscope.studies.explain_layer import choose_layer
    from normscope.studies.grid import build_for, lay_out
    from normscope.studies.pipeline import open_study

    options = ExplainOptions() if options is None else options
    grid = lay_out(options.study)
    spec = dataclasses.replace(grid.specs[0], seed=options.seed)
    choice = choose_layer(build_for(grid.dataset, spec), options.layer, spec.norm, options.channel)
    if is_batch := choice.kind == "batch":
        page_spec = dataclasses.replace(lay_out(options.page_study).specs[0], seed=options.seed)
        grid = dataclasses.replace(grid, specs=(spec, page_spec))
    else:
        grid = dataclasses.replace(grid, specs=(spec,))
    with open_study(options.directory, options.study, console or Console()) as training:
        _train(training, grid, options.study)
        work = _batch_norm if is_batch else _tokens
        explanation, written = work(training, grid, choice, options.channel)
        training.written(written, page=False)
        say(training.console, f"Open {training.study.path / PAGE_NAME} in a browser.")
    return ExplanationResult(training.study.path, explanation)


def _batch_norm(
    training: Training, grid: Grid, choice: Choice, channel: int | None
) -> tuple[Explanation, list[str]]:
    """Explain a batch normalization: text, figure, record, and the page with its own network."""
    from normscope.records.explanation import EXPLANATION_NAME, load_if_there, store_explanation
    from normscope.show.explanation_text import show
    from normscope.show.figures import explanation_poster
    from normscope.studies.explain_layer import explain_layer
    from normscope.studies.measurements.run_context import trained_network

    spec, page_spec = grid.specs
    folder, run = training.study.path, training.study.run(spec)
    known = load_if_there(folder / EXPLANATION_NAME)
    model = trained_network(run, spec, grid.dataset)
    meta = _describe(spec, run, choice.others)
    if known is not None and all(known.meta[name] == meta[name] for name in ("run", "environment")):
        forgotten = known.forgotten
    else:
        forgotten = _accuracies_without_eval(model, grid.dataset, spec, training.console)
    explanation = explain_layer(
        model, choice, grid.dataset, spec, channel=channel, forgotten=forgotten, meta=meta
    )
    store_explanation(explanation, folder / EXPLANATION_NAME)
    explanation_poster.draw(explanation, folder / FIGURE_NAME)
    show(explanation, training.console)
    _write_page(training.study, page_spec, grid.dataset)
    return explanation, [PAGE_NAME, FIGURE_NAME, EXPLANATION_NAME]


def _tokens(
    training: Training, grid: Grid, choice: Choice, channel: int | None
) -> tuple[TokenExplanation, list[str]]:
    """Explain a layer that takes every token by itself: text, figure, and the page that runs it."""
    from normscope.show.explanation_page.explanation_html import write_token_page
    from normscope.show.explanation_text import show_tokens
    from normscope.show.figures import token_poster
    from normscope.studies.explain_layer import explain_tokens
    from normscope.studies.measurements.run_context import trained_network

    (spec,) = grid.specs
    folder, run = training.study.path, training.study.run(spec)
    explanation = explain_tokens(
        trained_network(run, spec, grid.dataset),
        choice,
        grid.dataset,
        spec,
        channel=channel,
        meta=_describe(spec, run, choice.others),
    )
    token_poster.draw(explanation, folder / FIGURE_NAME)
    show_tokens(explanation, training.console)
    write_token_page(explanation, _made(run, spec, grid.dataset), folder / PAGE_NAME)
    return explanation, [PAGE_NAME, FIGURE_NAME]


def _train(training: Training, grid: Grid, options: GridOptions) -> None:
    """Train the network and that of a page with its own, both at once where there are two cores.

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
    from normscope.models.small_networks import TinyCNN
    from normscope.show.explanation_page.explanation_html import write_page
    from normscope.studies.measurements.run_context import trained_network
    from normscope.studies.page_network import page_network

    run = study.run(spec)
    model = trained_network(run, spec, dataset)
    assert isinstance(model, TinyCNN)
    made = _made(run, spec, dataset)
    page = page_network(model, dataset, seed=spec.seed, source=dataset.source, made=made)
    write_page(page, study.path / PAGE_NAME)


def _made(run: RunDirectory, spec: RunSpec, dataset: Dataset) -> dict[str, str]:
    """Return how a network was trained, term by term."""
    from normscope.records.run import load_run
    from normscope.show.terminal import percent

    accuracy = percent(load_run(run.path).final("test_accuracy"))
    count, items = len(dataset.test_labels), "images" if dataset.kind == "images" else "windows"
    return {
        "Data": dataset.source,
        "Training": f"{plural(spec.epochs, 'epoch')} of {OPTIMIZER_NAMES[spec.optimizer]} at "
        f"{spec.learning_rate:g}, seed {spec.seed}",
        "Test accuracy": f"{accuracy} on all {count:,} test {items}",
        "Run": run.path.name,
    }


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
