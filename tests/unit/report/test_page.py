"""The page of a run: its text, and its layout in a real browser."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from job import errors
from job.report import page
from job.storage.workdir import PREDICTIONS, REPORT
from tests.support.finished_run import NASTY, Reader


def test_the_page_says_all_of_a_run_and_asks_nobody(workdir):
    text = page.write(workdir).read_text(encoding="utf-8")
    read = Reader(text)
    for part in (
        "75.00 %",  # Accuracy.
        "81.25 %",  # With mirror images.
        "15.00 %",  # Calibration error.
        "Confusion matrix",
        "The 25 most confident mistakes",
        "automobile 90.0%",
        "2 starts. From the first to the end of the run 3 min 00 s",
        "2 min 00 s (67%) were not",
        "node-a",
        "momentum 0.9 0.5",
    ):
        assert part in read.text, part
    # Two curves, a rate, a throughput and a reliability diagram.
    assert read.tags.count("svg") == 5
    pictures = [v for v in read.links if v.startswith("data:image/png;base64,")]
    assert len(pictures) == 26
    others = [v for v in read.links if not v.startswith("data:")]
    assert all(link.startswith("#") for link in others), others
    assert not re.search(r"url\((?!#)|@import|<link|<iframe", text)
    assert len(text) < 2e6


def test_what_a_config_says_cannot_become_a_script(workdir):
    text = page.write(workdir, name=NASTY).read_text(encoding="utf-8")
    assert "script" not in Reader(text).tags
    assert text.count("&lt;script&gt;") >= 3  # Name, title, field.


def test_the_same_run_gives_the_same_page(workdir):
    first = page.write(workdir).read_bytes()
    assert page.write(workdir).read_bytes() == first


def test_what_is_missing_is_named_and_the_rest_is_shown(workdir):
    for name in ("result.json", PREDICTIONS, "augmentation.png"):
        (workdir / name).unlink()
    read = Reader(page.write(workdir).read_text(encoding="utf-8"))
    for part in (
        "Not finished: the newest checkpoint is of step 20",
        "predictions.npz is missing: a run writes it at its end",
        "augmentation.png is missing",
        "75.00 % so far",
        "2 starts.",
    ):
        assert part in read.text, part
    assert read.tags.count("svg") == 4
    shutil.rmtree(workdir / "checkpoints")
    (workdir / "metrics.jsonl").unlink()
    read = Reader(page.write(workdir).read_text(encoding="utf-8"))
    for part in (
        "without a checkpoint yet",
        "metrics.jsonl has no line yet",
        "No checkpoint tells of them yet",
    ):
        assert part in read.text, part
    (workdir / "config.json").unlink()
    with pytest.raises(errors.ConfigError, match=r"no config\.json of a run"):
        page.write(workdir)


def test_numbers_that_are_none_spoil_no_page(workdir):
    line = '{"step": 25, "split": "train", "epoch": 2.5, "loss": NaN,'
    line += ' "accuracy": 0.1, "learning_rate": 0.1, "images_per_second": 1}\n'
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write(line)
    result = json.loads((workdir / "result.json").read_text())
    result |= {"test_loss": float("nan"), "images_per_second": None}
    (workdir / "result.json").write_text(json.dumps(result))
    text = page.write(workdir).read_text(encoding="utf-8")
    assert "nan" not in Reader(text).text.lower().split()


@pytest.fixture
def browser():
    """A headless Chromium: its command."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if not found:
        pytest.skip("no chromium here (Debian: apt-get install chromium)")
    return [
        *(found, "--headless", "--no-sandbox", "--disable-gpu"),
        *("--hide-scrollbars", "--disable-dev-shm-usage"),
    ]


def look(browser, url, *options, home):
    environment = os.environ | {"HOME": str(home)}
    return subprocess.run(
        [*browser, f"--user-data-dir={home}/profile", *options, url],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env=environment,
    ).stdout


# Measures the page in a window of a width, from inside a frame: a browser's
# own window is never as narrow as a phone.
_MEASURE = """<!DOCTYPE html><body style="margin:0">
<iframe src="{page}" style="width:{width}px;height:4000px;border:0"></iframe>
<script>
addEventListener("load", () => {{
  const inner = document.querySelector("iframe").contentDocument;
  const root = inner.documentElement;
  const broken = [...inner.images].filter((i) => !i.naturalWidth).length;
  const charts = [...inner.querySelectorAll("svg")].map(
    (s) => s.getBoundingClientRect());
  document.title = JSON.stringify({{
    overflow: root.scrollWidth - root.clientWidth, broken,
    images: inner.images.length, charts: charts.length,
    narrowest: Math.min(...charts.map((c) => c.width)),
    columns: new Set(charts.map((c) => Math.round(c.left))).size,
  }});
}});
</script>"""


def test_a_browser_shows_the_page_on_a_desk_and_on_a_phone(
    browser, workdir, tmp_path_factory
):
    home = tmp_path_factory.mktemp("home")
    page.write(workdir, name="runs/" + "a-long-name-of-a-run" * 4)
    for width, columns in ((1280, 2), (390, 1)):
        frame = workdir / f"frame-{width}.html"
        frame.write_text(_MEASURE.format(page=REPORT, width=width))
        dom = look(
            browser,
            frame.as_uri(),
            "--allow-file-access-from-files",
            "--window-size=1400,1000",
            "--dump-dom",
            home=home,
        )
        found = json.loads(
            re.search(r"<title>(.*?)</title>", dom, re.DOTALL)[1]
        )
        assert found["overflow"] <= 0, (width, found)
        assert found["broken"] == 0
        assert (found["images"], found["charts"]) == (26, 5)
        assert found["narrowest"] > 330
        assert found["columns"] == columns, found
    shot = workdir / "shot.png"
    look(
        browser,
        (workdir / REPORT).as_uri(),
        "--window-size=1280,2000",
        f"--screenshot={shot}",
        home=home,
    )
    with Image.open(shot) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape == (2000, 1280, 3)
    # Curves in their colour, on a page that is mostly empty.
    first = np.abs(pixels.astype(int) - [0, 0x72, 0xB2]).max(2) < 8
    assert first.sum() > 1000
    assert (pixels == 255).all(2).mean() > 0.5


def test_the_page_needs_no_tensorflow():
    code = (
        "import sys; import job.report.page, job.report.card, job.main;"
        "import job.data.image_file; sys.exit('tensorflow' in sys.modules)"
    )
    root = pathlib.Path(__file__).resolve().parents[3]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
