import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normscope.errors import InputError, RecordError
from normscope.records.run_description import ADDED_KNOBS, FIRST_KNOBS
from normscope.studies.options import options_from
from normscope.studies.spec import Recipe, RunSpec, default_capture_epochs

RESULTS = Path(__file__).parents[2] / "docs" / "results"

FIELDS = {
    "data": "digits", "data_fingerprint": "f00d", "classes": ("0", "1"), "norm": "batch",
    "learning_rate": 0.1,
    "seed": 0, "epochs": 3, "capture_epochs": (1, 3), "crop_padding": 1, "horizontal_flip": False,
    "device": "cpu",
    "precision": "fp32", "fusion": False,
}  # fmt: skip


def other(value):
    """A value of the same kind that is another one and stays valid."""
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case float():
            return value / 2 or 1.0
        case "cosine":
            return "constant"
        case "sgd":
            return "adamw"
        case "fp32":
            return "bf16"
        case str():
            return value + "x"
        case (first, *_) if isinstance(first, int):
            return (2,)
        case tuple():
            return ("2", "3")
        case None:
            return None


def test_a_spec_survives_json():
    spec = RunSpec(**FIELDS, widths=(4, 8), block="formula")
    assert RunSpec.from_json(spec.to_json()) == spec


def id_of_the_first_version(spec):
    """The id as it was computed before knobs were left out: from every field that there was."""
    fields = dataclasses.asdict(spec)
    for knob in ADDED_KNOBS:
        del fields[knob]
    return hashlib.sha256(json.dumps(fields, sort_keys=True, indent=1).encode()).hexdigest()[:16]


def test_changing_any_knob_changes_the_identity():
    chosen: dict[str, Any] = {
        "widths": (4, 8),
        "block": "formula",
        "blocks_per_stage": 1,
        **dict.fromkeys(("depth", "width", "heads", "patch_size"), 2),
        **dict.fromkeys(("pooling", "positions", "placement", "embedding_scale"), "named"),
    }
    spec = RunSpec(**FIELDS, **chosen)
    for field in dataclasses.fields(spec):
        changed = dataclasses.replace(spec, **{field.name: other(getattr(spec, field.name))})
        assert changed.id != spec.id, field.name


def test_an_identity_does_not_change_between_versions_by_accident():
    """If this fails and the engine's arithmetic is the same, runs on users' disks would be trained
    again.
    """
    assert RunSpec(**FIELDS).id == "dbf4399661516f34"


@settings(deadline=None, max_examples=100)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "activation": st.sampled_from(["relu", "tanh"]),
            "block": st.sampled_from([None, "formula"]),
            "widths": st.none() | st.lists(st.integers(1, 64), min_size=1).map(tuple),
            "blocks_per_stage": st.none() | st.integers(1, 4),
            "initialization_scale": st.sampled_from([1.0, 0.1]),
            "batch_size": st.integers(1, 512),
            "momentum": st.floats(0, 1),
            "weight_decay": st.floats(0, 1),
            "schedule": st.sampled_from(["cosine", "constant"]),
            "norm": st.sampled_from(["none", "my_norms:norm"]),
            "norm_code": st.sampled_from(["", "c0de"]),
            "learning_rate": st.floats(1e-6, 1e6),
            "engine": st.sampled_from([1, 2]),
        },
    )
)
def test_every_id_of_the_first_version_is_still_that_of_its_run(knobs):
    spec = RunSpec(**FIELDS | knobs)
    assert spec.id == id_of_the_first_version(spec)


OF_THE_FIRST_VERSION = [
    path
    for path in sorted(RESULTS.glob("*/runs/*/spec.json"))
    if "threads" not in json.loads(path.read_text())
]


@pytest.mark.parametrize("path", OF_THE_FIRST_VERSION, ids=lambda path: path.parent.name)
def test_published_runs_of_the_first_version_keep_their_folders(path):
    assert RunSpec.from_json(path.read_text()).name == path.parent.name


def test_there_are_published_runs():
    assert len(OF_THE_FIRST_VERSION) > 30


@dataclasses.dataclass(frozen=True, kw_only=True)
class WithDropout(RunSpec):
    """What a spec is when somebody adds a knob."""

    dropout: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class WithOtherDefaults(RunSpec):
    """What a spec is when somebody changes defaults."""

    dropout: float = 0.1
    batch_size: int = 64
    threads: int = 4


def test_a_knob_that_is_added_leaves_runs_at_its_default_alone():
    assert WithDropout(**FIELDS).id == RunSpec(**FIELDS).id
    assert WithDropout(**FIELDS, dropout=0.5).id != RunSpec(**FIELDS).id


def test_a_default_that_changes_moves_no_run(monkeypatch):
    monkeypatch.setitem(ADDED_KNOBS, "dropout", 0.0)
    old = RunSpec(**FIELDS)
    assert WithOtherDefaults(**FIELDS, dropout=0.0, batch_size=128, threads=1).id == old.id
    ids = {
        WithOtherDefaults(**FIELDS).id,
        WithOtherDefaults(**FIELDS, dropout=0.0).id,
        WithOtherDefaults(**FIELDS, dropout=0.0, batch_size=128).id,
        old.id,
    }
    assert len(ids) == 4, "the defaults of today are recorded where they are not the first ones"


def test_every_knob_with_a_default_has_its_first_value_on_record():
    required = dataclasses.MISSING
    knobs = {field.name for field in dataclasses.fields(RunSpec) if field.default is not required}
    assert knobs == set(FIRST_KNOBS) | set(ADDED_KNOBS)


def test_a_spec_of_fewer_knobs_is_read_with_the_values_that_there_were():
    fields = json.loads(RunSpec(**FIELDS).to_json())
    for knob in ADDED_KNOBS:
        del fields[knob]
    assert RunSpec.from_json(json.dumps(fields)) == dataclasses.replace(
        RunSpec(**FIELDS), **ADDED_KNOBS
    )


@pytest.mark.parametrize("precision", ["fp16", "BF16", "auto", ""])
def test_a_precision_that_is_none_is_refused(precision):
    with pytest.raises(InputError, match="Unknown precision"):
        RunSpec(**FIELDS | {"precision": precision})


@pytest.mark.parametrize("threads", [0, -1, 100000])
def test_threads_that_cannot_be_are_refused(threads):
    with pytest.raises(InputError, match="number of threads"):
        RunSpec(**FIELDS, threads=threads)


@settings(deadline=None, max_examples=50)
@given(st.text(min_size=1))
def test_a_folder_name_is_always_a_plain_file_name(norm):
    name = RunSpec(**FIELDS | {"norm": norm}).name
    assert all(
        character.isascii() and (character.isalnum() or character in "_.-") for character in name
    )
    assert len(name) < 120
    assert not name.startswith("..")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "nonsense",
     json.dumps(dataclasses.asdict(RunSpec(**FIELDS)) | {"optimizer": "adam"}),
     json.dumps(dataclasses.asdict(RunSpec(**FIELDS)) | {"epochs": "3"})],
)  # fmt: skip
def test_a_spec_that_is_none_is_refused(text):
    with pytest.raises(RecordError, match="spec"):
        RunSpec.from_json(text)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "number of epochs is 0; expected 1 or more"),
        ({"seeds": 0}, "number of seeds is 0"),
        ({"jobs": 0}, "number of jobs is 0"),
        ({"threads": 0}, "number of threads is 0"),
        ({"batch_size": 0}, "batch size is 0"),
        ({"norms": ["batch", "batch"]}, "--norms names batch more than once"),
        ({"learning_rates": [0.1, 0.1]}, "--learning-rates names 0.1 more than once"),
        ({"momentum": -1.0}, "momentum is -1.0; expected a number between 0 and 1"),
        ({"weight_decay": float("nan")}, "weight decay is nan; expected a number 0 or more"),
        ({"epoch": 3}, "Unknown setting 'epoch'. Did you mean 'epochs'"),
        ({"epochs": "many"}, "epochs"),
        ({"norms": "batch"}, "Expected a list, got `str` - at `norms`"),
        ({"schedule": "linear"}, "schedule"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(InputError, match=message) as caught:
        options_from(settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": -0.1}, "learning rate is -0.1; expected a positive"),
        ({"learning_rate": float("inf")}, "learning rate is inf"),
        ({"capture_epochs": (4,)}, "Epoch 4 cannot be captured: the run has epochs 1 to 3"),
        ({"capture_epochs": (0,)}, "Epoch 0 cannot be captured"),
        ({"epochs": 0, "capture_epochs": ()}, "number of epochs is 0"),
    ],
)
def test_runs_that_cannot_be_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        RunSpec(**FIELDS | changes)


def test_settings_by_name_reach_the_recipe_and_the_options():
    options = options_from(
        {"norms": ["batch", "group"], "batch_size": 64, "out": "here", "widths": [4, 8, 8]}
    )
    assert options.norms == ("batch", "group")
    assert options.recipe == Recipe(batch_size=64, widths=(4, 8, 8))
    assert str(options.out) == "here"


@pytest.mark.parametrize(
    ("epochs", "expected"), [(1, (1,)), (2, (1, 2)), (3, (1, 3)), (5, (1, 2, 5)), (30, (1, 15, 30))]
)
def test_default_capture_epochs(epochs, expected):
    assert default_capture_epochs(epochs) == expected


def test_numpys_numbers_and_arrays_are_settings_too():
    options = options_from(
        {"learning_rates": np.logspace(-2, 0, 3), "seeds": np.int64(2), "momentum": np.float32(0.5)}
    )
    assert options.learning_rates == pytest.approx((0.01, 0.1, 1.0))
    assert (options.seeds, options.recipe.momentum) == (2, 0.5)


@pytest.mark.parametrize("setting", ["out", "data_dir"])
def test_a_folder_may_be_text_or_a_path(setting):
    for folder in ("here", Path("here")):
        assert getattr(options_from({setting: folder}), setting) == Path("here")
