"""The page of a run, and what it is made of: figures, and a real browser."""

import html.parser
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

from configs import smoke
from job import errors
from job.checkpoint import store
from job.config import serialization
from job.data import dataset
from job.modes import report
from job.output import predictions
from job.report import card, page
from job.report import run as run_lib
from job.storage import files
from job.storage.workdir import PREDICTIONS, REPORT

NASTY = '"><script>alert(1)</script>'


def make_predictions(count=200):
    """Predictions with known figures: a quarter is wrong, always at 90 %."""
    rng = np.random.default_rng(0)
    labels = np.arange(count, dtype=np.int32) % 10
    said = np.where(np.arange(count) % 4 == 0, (labels + 1) % 10, labels)
    logits = np.full((count, 10), np.log(0.1 / 9), np.float32)
    logits[np.arange(count), said] = np.log(0.9)
    images = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    split = dataset.Split(images, labels)
    return predictions.predict(logits, split, dataset.CLASS_NAMES), split


@pytest.fixture
def workdir(tmp_path):
    """What a finished run leaves, after two starts; made by hand."""
    config = smoke.get_config().unlock()
    config.data.dir = NASTY
    config.optimizer.momentum = 0.5
    files.write_json(tmp_path / "config.json", serialization.to_json(config))
    command = {
        "config": "configs/smoke.py",
        "flags": {"data.dir": NASTY, "optimizer.momentum": 0.5},
        "replaced": {"data.dir": "", "optimizer.momentum": 0.75},
    }
    files.write_json(tmp_path / "command.json", command)
    lines = []
    for step in range(5, 25, 5):
        line = {"step": step, "epoch": step / 10, "loss": 2.0 - step / 20}
        rate = {"learning_rate": 0.1, "images_per_second": 1000.0 + step}
        lines.append(line | rate | {"split": "train", "accuracy": 0.1})
    test = {"split": "test", "learning_rate": None, "accuracy": 0.75}
    lines.append({**lines[-1], **test})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text)
    result = {
        "test_accuracy": 0.75,
        "test_accuracy_tta": 0.8125,
        "test_loss": 0.5,
        "images_scored": 200,
        "train_steps": 20,
        "train_seconds": 60.0,
        "images_per_second": 1000.0,
        "params": 1234,
        "replicas": 1,
        "precision": "float32",
        "global_batch_size": 64,
        "resumes": 1,
        "rollbacks": 0,
        "data_source": "binary",
        "ended": "2026-01-01T00:03:00+00:00",
    }
    files.write_json(tmp_path / "result.json", result)
    make_predictions()[0].save(tmp_path / PREDICTIONS)
    Image.new("RGB", (80, 80)).save(tmp_path / "augmentation.png")
    starts = [
        {
            "step": step,
            "time": f"2026-01-01T00:0{minute}:00+00:00",
            "replicas": 1,
            "host": "node-a",
            "versions": {"tensorflow": "2.21.0"},
        }
        for step, minute in ((0, 0), (10, 1))
    ]
    store.CheckpointStore(tmp_path / "checkpoints").save(
        20,
        {"step": np.zeros(1, np.float32)},
        {"starts": starts, "rollbacks": [], "train_seconds": 60.0},
    )
    return tmp_path


class Reader(html.parser.HTMLParser):
    """Collects a page's text, tags and whatever it would fetch."""

    def __init__(self, text):
        super().__init__()
        self.words, self.tags, self.links = [], [], []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        names = ("src", "href", "xlink:href", "data", "srcset")
        self.links += [v for k, v in attributes if k in names]

    def handle_data(self, data):
        self.words.append(data)


def test_figures_of_predictions_are_those_of_their_definitions():
    found, split = make_predictions()
    np.testing.assert_allclose(found.probabilities.sum(1), 1, atol=1e-6)
    assert found.accuracy == 0.75
    table = found.confusion()
    wrong = np.arange(0, 200, 4)
    expected = np.zeros((10, 10), int)
    for row in range(200):
        label = split.labels[row]
        expected[label, (label + (row % 4 == 0)) % 10] += 1
    np.testing.assert_array_equal(table, expected)
    # All lie in one bin, at 0.9, of which 0.75 are right.
    (used,) = [b for b in found.calibration() if b.count]
    assert (used.count, used.accuracy) == (200, 0.75)
    assert used.low < 0.9 <= used.high
    assert found.calibration_error() == pytest.approx(0.15, abs=1e-6)
    np.testing.assert_array_equal(found.mistakes, wrong[:25])
    np.testing.assert_array_equal(found.pictures, split.images[wrong[:25]])


def test_the_worst_mistakes_come_first():
    labels = np.zeros(4, np.int32)
    logits = np.zeros((4, 10), np.float32)
    logits[[0, 1, 2, 3], [1, 0, 2, 3]] = [1.0, 9.0, 3.0, 2.0]
    split = dataset.Split(np.zeros((4, 32, 32, 3), np.uint8), labels)
    found = predictions.predict(logits, split, dataset.CLASS_NAMES)
    assert found.mistakes.tolist() == [2, 3, 0]
    with pytest.raises(ValueError, match="4 predictions of 3"):
        predictions.predict(logits, split.take(np.arange(3)), ())


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_every_image_lies_in_one_bin(bins):
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(500, 10), scale=3)
    logits[0] = [100, *[0] * 9]  # As sure as can be.
    logits[1] = 0  # Not at all: 0.1, the edge of a bin.
    images = np.zeros((500, 32, 32, 3), np.uint8)
    split = dataset.Split(images, np.zeros(500, np.int32))
    found = predictions.predict(logits, split, dataset.CLASS_NAMES)
    assert sum(b.count for b in found.calibration(bins)) == 500


def test_predictions_are_read_back_and_damage_is_none(tmp_path):
    path = tmp_path / PREDICTIONS
    assert predictions.load(path) is None
    found, _ = make_predictions()
    found.save(path)
    again = predictions.load(path)
    np.testing.assert_array_equal(again.probabilities, found.probabilities)
    np.testing.assert_array_equal(again.pictures, found.pictures)
    assert again.class_names == found.class_names
    content = path.read_bytes()
    for damaged in (content[:-100], content[:50], b"", b"x"):
        path.write_bytes(damaged)
        assert predictions.load(path) is None
    np.savez(path, probabilities=found.probabilities, labels=found.labels)
    assert predictions.load(path) is None


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
        "flag , the file has 0.75",
        "configs/smoke.py",
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
        "There is no predictions.npz: they are made at the end",
        "There is no augmentation.png",
        "75.00 % so far",
        "2 starts.",
    ):
        assert part in read.text, part
    assert read.tags.count("svg") == 4
    shutil.rmtree(workdir / "checkpoints")
    for name in ("metrics.jsonl", "command.json"):
        (workdir / name).unlink()
    read = Reader(page.write(workdir).read_text(encoding="utf-8"))
    for part in (
        "without a checkpoint yet",
        "There is no line in metrics.jsonl yet",
        "No checkpoint tells of them yet",
        "Which fields were flags is not known",
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


def test_the_card_tells_of_the_run_and_of_its_limits(workdir):
    run = run_lib.read(workdir)
    names = dataset.CLASS_NAMES
    text = card.write(run, step=20, class_names=names, crc32c="00c0ffee")
    for part in (
        "| test accuracy | 75.00 % |",
        "| expected calibration error | 15.00 % |",
        "| optimizer.momentum | `0.5` |",
        "crc32c `00c0ffee`",
        "0 airplane, 1 automobile",
        "Seed 0.",
        "{difference}",
        "Limits",
    ):
        assert part in text, part
    assert NASTY not in text  # Where the images lay is nobody's business.
    (workdir / "result.json").unlink()
    run = run_lib.read(workdir)
    text = card.write(run, step=15, class_names=names, crc32c="")
    assert "not finished: these are the weights of step 15" in text


def test_a_page_of_a_run_in_a_bucket_goes_there(workdir, bucket, capsys):
    for path in workdir.rglob("*"):
        if path.is_file():
            name = path.relative_to(workdir).as_posix()
            bucket.put(name, path.read_bytes())
    before = bucket.files()
    outcome = report.run([bucket.url])
    there = bucket.files()
    assert there.keys() - before.keys() == {REPORT}
    assert all(there[name] == content for name, content in before.items())
    read = Reader(there[REPORT].decode())
    for part in (bucket.url, "15.00 %", "2 starts.", "most confident mistakes"):
        assert part in read.text, part
    assert "There is no" not in read.text
    assert outcome.output == [f"{bucket.url}/{REPORT}"]


def test_the_mode_makes_pages_and_compares_where_there_are_several(
    workdir, tmp_path_factory
):
    report.run([str(workdir)])
    assert (workdir / REPORT).exists()
    assert not (workdir / "report.md").exists()
    other = tmp_path_factory.mktemp("other") / "second"
    shutil.copytree(workdir, other)
    (other / REPORT).unlink()
    outcome = report.run([str(workdir), str(other)])
    assert (other / REPORT).exists()
    assert "| second | 75.00 | +0.00 |" in (workdir / "report.md").read_text()
    assert "| second |" in "\n".join(outcome.output)
    with pytest.raises(errors.ConfigError, match=r"no config\.json of a run"):
        report.run([str(workdir), str(workdir / "checkpoints")])
    compared = other.parent / "compared"
    report.run([str(compared), str(workdir), str(other)])
    assert "| second |" in (compared / "report.md").read_text()


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
