"""Makes docs/images/report.png: the upper part of a study's report as a browser shows it.

    python docs/images/make_report.py [--study docs/results/cifar10-30-epochs] [--chromium
    /usr/bin/chromium]

Needs playwright and a chromium. Run it again after the page or those results change.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from normscope.show.report.pages import report

HERE = Path(__file__).parent
STUDY = HERE.parent / "results" / "cifar10-30-epochs"
WIDTH, HEIGHT = 1280, 1330  # pixels: down to the first curves


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--study", type=Path, default=STUDY)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page = report(options.study, out=Path(folder) / "report.html", command="normscope compare")
        browser = playwright.chromium.launch(
            executable_path=options.chromium, args=["--headless", "--no-sandbox"]
        )
        tab = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        tab.goto(page.as_uri())
        tab.wait_for_selector("body[data-drawn=all]", timeout=60_000)
        picture = Image.open(io.BytesIO(tab.screenshot()))
        browser.close()
    picture.convert("RGB").save(HERE / "report.png", optimize=True)


if __name__ == "__main__":
    main()
