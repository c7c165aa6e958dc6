import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normscope.errors import InputError, RecordError
from normscope.studies.spec import (
    CompareOptions,
    Recipe,
    RunSpec,
    default_capture_epochs,
    options_from,
)

FIELDS = {
    "data": "digits", "data_fingerprint": "f00d", "classes": ("0", "1"), "norm": "batch", "learning_rate": 0.1,
    "seed": 0, "epochs": 3, "capture_epochs": (1, 3), "crop_padding": 1, "horizontal_flip": False, "device": "cpu",
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
            return value / 2
        case "cosine":
            return "constant"
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


def test_every_field_is_part_of_the_identity():
    spec = RunSpec(**FIELDS, widths=(4, 8), block="formula", blocks_per_stage=1)
    for field in dataclasses.fields(spec):
        changed = dataclasses.replace(spec, **{field.name: other(getattr(spec, field.name))})
        assert changed.id != spec.id, field.name


def test_an_identity_does_not_change_between_versions_by_accident():
    """If this fails and the engine's arithmetic is the same, runs on users' disks would be trained
    again.
    """
    assert RunSpec(**FIELDS).id == "dbf4399661516f34"


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
    ["", "[]", "{}", "nonsense", json.dumps(dataclasses.asdict(RunSpec(**FIELDS)) | {"optimizer": "adam"}),
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
        ({"batch_size": 0}, "batch size is 0"),
        ({"norms": ()}, "No normalization"),
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
    assert str(options.directory) == "here"
    assert str(CompareOptions().directory) == "normscope-runs/compare-digits"


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
