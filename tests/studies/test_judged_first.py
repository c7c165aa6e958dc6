"""Settings are judged before work begins: nothing of their size is made first."""

import os

import pytest

from normscope.commands.check import read_settings
from normscope.errors import InputError
from normscope.studies import environment
from normscope.studies.grid import lay_out
from normscope.studies.options import GridOptions, options_from
from normscope.studies.study_plans import find_study

DIGITS = {"data": "digits", "fusion": "off", "epochs": 1}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": 10**9}, "between 1 and 10,000"),
        ({"seeds": 10**30}, "A setting cannot be used|between 1 and 10,000"),
        ({"epochs": 10**9}, "between 1 and 1,000,000"),
        ({"batch_size": 10**30}, "batch size|A setting cannot be used"),
        ({"batch_size": -5}, "batch size is -5; expected 1 or more"),
        ({"blocks_per_stage": 100_000}, "blocks_per_stage is 100000; expected a number between"),
        ({"widths": [8] * 5000}, "number of widths is 5000"),
        ({"model": "vit", "depth": 10**6}, "value of depth is 1000000"),
        ({"warmup": 10**18}, "warm-up steps"),
        ({"norms": ["n" * 5000]}, "Unknown normalization 'n{60}...'"),
        ({"norms": ["builtins:len"]}, "builtins:len' failed for 16 channels: TypeError"),
        ({"widths": [100_000]}, "would need [0-9,.]+ GB for 360,0[0-9,]+ parameters"),
        ({"model": "vit", "width": 100_000}, "would need .* parameters"),
    ],
)
def test_a_setting_beyond_its_range(settings, message):
    with pytest.raises(InputError, match=message) as caught:
        lay_out(options_from(DIGITS | settings))
    assert len(str(caught.value)) < 400


def test_activations_count_beside_parameters(monkeypatch):
    monkeypatch.setattr(environment, "memory_at_hand", lambda device: 40 << 20)
    lay_out(options_from(DIGITS | {"batch_size": 16}))
    with pytest.raises(
        InputError, match=r"would need [0-9.]+ GB for the activations of a batch of 1,442"
    ):
        lay_out(options_from(DIGITS | {"batch_size": 10**6}))


def test_a_grid_of_too_many_runs():
    rates = [1 / (n + 1) for n in range(3000)]
    with pytest.raises(
        InputError, match=r"12,000 runs \(1 seed x 2 momentum x 3,000 learning_rate"
    ):
        lay_out(
            GridOptions(**DIGITS, seeds=1, learning_rates=tuple(rates)), {"momentum": (0.5, 0.9)}
        )


FILES = {
    "a table that is none": "[settings]\nsettings = 1\n",
    "deep lists": f"a = {'[' * 5000}{']' * 5000}",
    "many parts of a name": f"{'a.' * 30_000}b = 1",
    "many digits": f"[settings]\nepochs = {'9' * 5000}",
    "a precision that is none": '[sweep]\nprecision = ["fp32", "BF16"]',
    "a precision that is none, set": '[settings]\nprecision = "fp16"',
    "code": '[settings]\nnorms = ["os:system"]',
    "a zero byte": '[settings]\nnorms = ["\\u0000"]',
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_a_study_that_is_none(tmp_path, content):
    (tmp_path / "s.toml").write_text(content)
    with pytest.raises(InputError) as caught:
        plan = find_study(str(tmp_path / "s.toml"))
        for grid in plan.grids:
            lay_out(grid.options(DIGITS), grid.sweep)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        "[tool]\nnormscope = 1",
        "tool = 1",
        "[tool.normscope]\ncheck = []",
        FILES["deep lists"],
        FILES["many digits"],
        "[tool.normscope.check]\nbatch-size = 0",
        "\udcff",
        f"[tool.normscope.check]\nselect = {'[' * 300}{']' * 300}",
    ],
)
def test_settings_of_check_that_are_none(tmp_path, content):
    (tmp_path / "pyproject.toml").write_text(content, errors="surrogateescape")
    with pytest.raises(InputError) as caught:
        read_settings(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_pipe_is_no_study_and_holds_no_settings(tmp_path):
    for name in ("s.toml", "pyproject.toml"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="a pipe, not a file"):
        find_study(str(tmp_path / "s.toml"))
    with pytest.raises(InputError, match="a pipe, not a file"):
        read_settings(tmp_path)
