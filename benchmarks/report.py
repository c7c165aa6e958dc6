"""Measures the report in a real browser: size, seconds to write, to the first view, and
milliseconds per slider step.

    python benchmarks/report.py [--chromium /usr/bin/chromium]

Two studies, made up from random numbers: 6 runs of 30 epochs, each watched (20 layers, 700
channels, 120 moments, 12 histograms), and 200 runs of 30 epochs. Needs playwright and a chromium.
Times are medians of `--repeats`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "report"))

from report_records import write_study

from normscope.records.recording_header import BINS, Header, LayerInfo
from normscope.records.recording_parts import Batch, FilePart
from normscope.show.report.pages import report

LAYERS = [*((f"layer1.{k}", 16) for k in range(7)), *((f"layer2.{k}", 32) for k in range(7)),
          *((f"layer3.{k}", 64) for k in range(6))]  # fmt: skip
STEPS, HISTOGRAMS = 120, 12
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
]

STEP = """async (places) => {
    const times = [];
    for (const place of places) {
        const begin = performance.now();
        input.value = place;
        input.dispatchEvent(new Event('input'));
        await Promise.all(charts.map((chart) => chart.drawing));
        times.push(performance.now() - begin);
    }
    return times;
}"""


def watched(path: Path, draw: np.random.Generator) -> None:
    infos = [LayerInfo(name, "BatchNorm2d", "batch", channels) for name, channels in LAYERS]
    header = Header("SmallResNet", "optimizer step", {}, infos, {}, "cpu", complete=True)
    at = np.linspace(1, 11_700, STEPS).astype(np.int64)
    series, frames = {}, {}
    for name, channels in LAYERS:
        for statistic in (
            "batch_mean",
            "running_mean",
            "weight",
            "bias",
            "weight_gradient",
            "bias_gradient",
        ):
            series[name, statistic] = draw.normal(size=(STEPS, channels)).cumsum(0).astype("<f4")
        for statistic in ("batch_var", "running_var"):
            series[name, statistic] = draw.uniform(0.5, 2, (STEPS, channels)).astype("<f4")
        series[name, "output_gradient_norm"] = draw.uniform(0.1, 1, STEPS).astype("<f4")
        frames[name, "histogram"] = draw.integers(0, 500, (HISTOGRAMS, channels, BINS + 2)).astype(
            "<u2"
        )
        frames[name, "histogram_frame"] = np.tile(
            np.array([0, 1, 1, 0, -4.5, 4.5], "<f4")[:, None], (HISTOGRAMS, 1, channels)
        )
    blocks = [(at, series), (at[:: STEPS // HISTOGRAMS], frames)]
    FilePart(path, header).write(Batch(header, blocks))


def study(folder: Path, seeds: int, *, watch: bool) -> Path:
    write_study(folder, seeds=tuple(range(seeds)), epochs=30)
    if watch:
        for run in sorted((folder / "runs").iterdir()):
            watched(run / "recording.sqlite", np.random.default_rng(len(run.name)))
    return folder


def first_view(browser: Browser, path: Path) -> float:
    page = browser.new_page()
    begin = time.perf_counter()
    page.goto(path.as_uri())
    page.locator(".plot svg").first.wait_for()
    seconds = time.perf_counter() - begin
    page.close()
    return seconds


def slider_steps(browser: Browser, path: Path, name: str, last: int) -> float | None:
    page = browser.new_page()
    page.goto(path.as_uri())
    page.locator("body[data-drawn=all]").wait_for(timeout=120_000)
    slider = page.get_by_role("slider", name=name)
    if not slider.count():
        return None
    slider.scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    times = page.evaluate(
        f"(places) => {{ const input = document.querySelector('input[aria-label={name}]'); "
        f"return ({STEP})(places); }}",
        [*range(last), *range(last)],
    )
    page.close()
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium, args=FLAGS)
        for label, seeds, watch in (("6 watched runs", 3, True), ("200 runs", 100, False)):
            made = study(Path(folder) / label, seeds, watch=watch)
            report(made)  # the first one also bundles Vega
            begin = time.perf_counter()
            path = report(made)
            written = time.perf_counter() - begin
            views = [first_view(browser, path) for _ in range(options.repeats)]
            print(
                f"{label}: {path.stat().st_size / 1e6:.2f} MB, written in {written:.2f} s, first "
                "view "
                f"{statistics.median(views):.2f} s (n = {options.repeats}), all views drawn; "
                "epoch step "
                f"{slider_steps(browser, path, 'Epoch', 2):.0f} ms"
                + (
                    f", layer step {slider_steps(browser, path, 'Step', 8):.0f} ms" if watch else ""
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
