from __future__ import annotations

import warnings

import matplotlib
import pytest
from figure_checks import assert_within_page, texts
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from normscope.errors import StorageError
from normscope.show.figures import activation_distributions as distributions
from normscope.show.figures import comparison_figure as comparison
from normscope.show.figures import learning_rate_figure as learning_rates
from normscope.show.figures.page import text_width, wrap
from normscope.show.figures.style import label_of, norm_styles

AWKWARD = (
    "$x_$",
    "50%_{^\\frac",
    "a_very_long_package_name.with_a_module_inside.and_another:make_my_special_normalization",
    "_hidden:norm",
)


def test_a_norm_looks_the_same_whatever_stands_beside_it():
    alone = norm_styles(["batch", "none", "mine:norm"])
    among = norm_styles(["none", "mine:norm", "group", "layer", "batch", "instance"])
    assert all(alone[name] == among[name] for name in alone)


def test_35_norms_can_be_told_apart_by_colour_and_line():
    own = [f"mine:norm{k}" for k in range(29)]
    styles = norm_styles(["batch", "none", "group", "layer", "instance", "noisy-batch", *own])
    assert len({(style.colour, style.dashes) for style in styles.values()}) == 35
    assert len(norm_styles(f"mine:norm{k}" for k in range(100))) == 100


def every_figure(runs, summary, tmp_path):
    yield comparison.draw(summary, runs, tmp_path / "comparison.png")
    yield distributions.draw(runs, tmp_path / "activation_distributions.png")
    yield learning_rates.draw(summary, runs, tmp_path / "learning_rates.png")


def test_names_are_shown_as_they_are(run, compared, tmp_path):
    runs = [
        run(norm, rate, 0, status=status, captured=(1,))
        for rate, status in ((0.01, "finished"), (0.1, "diverged"))
        for norm in AWKWARD
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for figure in every_figure(runs, compared(runs), tmp_path):
            assert_within_page(figure)
            shown = texts(figure)
            for norm in AWKWARD:
                assert any(label_of(norm, 20)[1:] in text for text in shown), norm


def test_settings_of_the_user_neither_matter_nor_change(run, compared, tmp_path):
    runs = [run(norm, 0.1, 0) for norm in ("batch", "none")]
    own = {"text.usetex": True, "font.size": 40.0, "axes.labelsize": 40.0}
    with matplotlib.rc_context(own):
        for figure in every_figure(runs, compared(runs), tmp_path):
            assert_within_page(figure)
        assert {key: matplotlib.rcParams[key] for key in own} == own


def test_other_formats_follow_the_suffix(run, compared, tmp_path, real_files):
    runs = [run("batch", 0.1, 0)]
    comparison.draw(compared(runs), runs, tmp_path / "comparison.svg")
    assert (tmp_path / "comparison.svg").read_text().startswith("<?xml")


def test_files_are_pictures(run, compared, tmp_path, real_files):
    runs = [run(norm, rate, 0) for norm in ("batch", "none") for rate in (0.1, 1.0)]
    list(every_figure(runs, compared(runs), tmp_path))
    for path in tmp_path.iterdir():
        with Image.open(path) as image:
            assert min(image.size) > 400
            assert len(image.getcolors(1 << 24)) > 10, path


def test_a_folder_that_is_not_there(run, compared, tmp_path):
    runs = [run("batch", 0.1, 0)]
    with pytest.raises(StorageError, match="Cannot write"):
        comparison.draw(compared(runs), runs, tmp_path / "nowhere" / "comparison.png")


@settings(deadline=None, max_examples=50)
@given(
    st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=80), st.floats(0.5, 4)
)
def test_wrapped_lines_fit_and_hold_every_character(text, width):
    lines = wrap(text, width, 9)
    assert all(text_width(line, 9) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
