"""Tests of the page of a run, with its layout in a browser."""

import dataclasses
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
from job.data import dataset
from job.output import predictions
from job.report import page, render
from job.report import run as run_lib
from job.storage import files
from job.storage.workdir import DIAGNOSE, FAILURE, PREDICTIONS, REPORT, Workdir
from tests.support import finished_run
from tests.support.finished_run import HOSTILE, Reader


def look_at(workdir, **kwargs):
    return Reader(
        page.write(Workdir(workdir, **kwargs)).read_text(encoding="utf-8")
    )


def change(workdir, name, **values):
    path = workdir / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_the_page_says_all_of_a_run_and_asks_nobody(workdir):
    text = page.write(Workdir(workdir)).read_text(encoding="utf-8")
    read = Reader(text)
    for part in (
        "Finished after 20 steps (2 epochs)",
        "75.00% test accuracy",
        "81.25% with flip TTA",
        "15.00% calibration error",
        "Training images 640",
        "Not diagnosed yet",
        "Confusion matrix",
        "The 25 most confident mistakes",
        "automobile 90.0%",
        "1 restart. After the first startup the run took 3 min 00 s",
        "took the other 2 min 00 s",
        "node-a",
        "momentum 0.9 0.5",
    ):
        assert part in read.text, part
    # Loss, accuracy, learning rate, throughput, reliability.
    assert read.tags.count("svg") == 5
    pictures = [v for v in read.links if v.startswith("data:image/png;base64,")]
    assert len(pictures) == 26
    others = [v for v in read.links if not v.startswith("data:")]
    assert all(link.startswith("#") for link in others), others
    assert not re.search(r"url\((?!#)|@import|<link|<iframe", text)
    assert len(text) < 2e6


def test_hostile_names_stay_text(workdir):
    fields = {name: name for name in HOSTILE}
    findings = [
        {"title": name, "evidence": name, "cost": name, "fix": name}
        for name in HOSTILE
    ]
    for name in HOSTILE[0], HOSTILE[-1]:
        run = run_lib.read(Workdir(workdir, name))
        run = dataclasses.replace(
            run,
            fields=run.fields | fields,
            diagnosis={"findings": findings, "facts": fields, "summary": name},
            scored=dataclasses.replace(run.scored, class_names=HOSTILE[-10:]),
        )
        read = Reader(page.to_html(run).decode())
        assert "script" not in read.tags
        assert all(v.startswith(("data:image/png;", "#")) for v in read.links)
        for name in HOSTILE:
            shown = " ".join(render.printable(name).split())
            assert read.text.count(shown) > 3, shown
        assert not re.search(r"[\x00-\x09\x0b-\x1f]", read.text)


def test_a_file_name_that_is_not_utf8_is_written(tmp_path):
    workdir = tmp_path / "bad\udcff"
    finished_run.write_run(workdir)
    assert "bad\\udcff" in look_at(workdir).text


def test_the_same_run_gives_the_same_page(workdir):
    first = page.write(Workdir(workdir)).read_bytes()
    assert page.write(Workdir(workdir)).read_bytes() == first


def test_missing_files_are_named_and_others_shown(workdir):
    for name in ("result.json", PREDICTIONS, "augmentation.png"):
        (workdir / name).unlink()
    read = look_at(workdir)
    for part in (
        "the newest checkpoint, step 20",
        "predictions.npz is missing, because a run writes it at its end",
        "augmentation.png is missing",
        "75.00% test accuracy so far",
        "1 restart.",
    ):
        assert part in read.text, part
    assert read.tags.count("svg") == 4
    shutil.rmtree(workdir / "checkpoints")
    (workdir / "metrics.jsonl").unlink()
    read = look_at(workdir)
    for part in (
        "The run has no checkpoint yet",
        "metrics.jsonl has no line yet",
        "Restarts are listed after the first checkpoint",
    ):
        assert part in read.text, part
    (workdir / "config.json").unlink()
    with pytest.raises(errors.ConfigError, match=r"no config\.json found"):
        page.write(Workdir(workdir))


def test_divergence_is_shown(workdir):
    (workdir / "result.json").unlink()
    files.write_json(workdir / FAILURE, {"error": "the loss of step 7 is NaN"})
    line = '{"step": 25, "split": "train", "epoch": 2.5, "loss": 8e13}\n'
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write(line)
    text = page.write(Workdir(workdir)).read_text()
    read = Reader(text)
    assert "Diverged. the loss of step 7 is NaN" in read.text
    assert "log scale" in text
    assert "Not finished" not in read.text


def test_the_diagnosis_is_shown(workdir):
    finding = {
        "title": "the base is frozen",
        "evidence": "15 of 16 layers do not train",
        "cost": "22.4 points (docs/results.md)",
        "fix": "--config=configs/transfer.py",
    }
    found = {
        "summary": "Expected here: 88.6 %.",
        "findings": [finding],
        "command": "make train ALL",
        "facts": {"a step": "69 ms"},
    }
    files.write_json(workdir / DIAGNOSE, found)
    text = look_at(workdir).text
    for part in (
        "1. the base is frozen",
        *list(finding.values())[1:],
        "Expected here: 88.6 %.",
        "make train ALL",
        "a step: 69 ms",
    ):
        assert part in text, part
    files.write_json(workdir / DIAGNOSE, {"findings": [], "facts": {}})
    assert "No known mistakes were found" in look_at(workdir).text


def test_the_data_set_is_named(workdir):
    assert "was not trained on photographs" in look_at(workdir).text
    change(workdir, "result.json", data_source="binary")
    text = look_at(workdir).text
    assert "was not trained on photographs" not in text
    assert "CIFAR-10, read as binary" in text
    change(workdir, "result.json", data_source="my_images")
    text = look_at(workdir).text
    assert "CIFAR-10" not in text
    assert "Data my_images Classes 10" in text


def test_the_training_loss_has_the_range_of_the_test_loss(workdir):
    text = page.write(Workdir(workdir)).read_text()
    assert "label smoothing of 0.1, so its minimum is 0.50" in text
    # A loss of 1.0 becomes (1.0 - 0.5003) * ln 10 / (ln 10 - 0.5003).
    assert "train 0.638<" in text
    config = json.loads((workdir / "config.json").read_text())
    config["optimizer"]["label_smoothing"] = 0.0
    (workdir / "config.json").write_text(json.dumps(config))
    text = page.write(Workdir(workdir)).read_text()
    assert "label smoothing of" not in text
    assert "train 1<" in text


DAMAGE = {
    "result.json": (b"[1]", b'{"test_accuracy": {}}', b"[" * 100_000, b""),
    "metrics.jsonl": (
        b'{"step": "a", "split": "train"}\n',
        b'{"step": 1, "split": "train", "epoch": 1, "loss": 1e308}\n',
        b'{"step": 1%s, "split": "test", "accuracy": 1}\n' % (b"0" * 400),
        b"[" * 100_000,
    ),
    "predictions.npz": (b"PK", b"\x93NUMPY", b""),
    "augmentation.png": (b"<svg onload=alert(1)>", b""),
    "diagnose.json": (
        b"[]",
        b'{"findings": 5}',
        b'{"findings": [{"title": 1, "evidence": "a"}]}',
        b"{",
    ),
    "failure.json": (b"7", b'{"error": {}}'),
}


@pytest.mark.parametrize("variant", range(4))
def test_a_damaged_file_is_a_note(workdir, variant):
    for name, contents in DAMAGE.items():
        (workdir / name).write_bytes(contents[variant % len(contents)])
    text = look_at(workdir).text
    assert "Restarts" in text
    assert all(f"{workdir / name}" in text for name in DAMAGE)


def test_a_folder_in_place_of_a_file_is_a_note(workdir):
    for name in DAMAGE:
        (workdir / name).unlink(missing_ok=True)
        (workdir / name).mkdir()
    text = look_at(workdir).text
    assert all(f"{workdir / name}" in text for name in DAMAGE)


@pytest.mark.parametrize("content", [b"{", b'{"seed": 1.5}', b'{"a b": 1}'])
def test_a_damaged_config_ends_with_a_message(workdir, content):
    (workdir / "config.json").write_bytes(content)
    with pytest.raises(errors.ConfigError, match=r"config\.json"):
        page.write(Workdir(workdir))


def test_many_classes_have_a_table_instead_of_the_matrix(workdir):
    labels = np.arange(300) % 30
    split = dataset.Split(np.zeros((300, 32, 32, 3), np.uint8), labels)
    logits = np.eye(30)[np.where(labels < 3, labels + 1, labels)]
    names = [f"class {n}" for n in range(30)]
    predictions.predict(logits, split, names).save(workdir / PREDICTIONS)
    read = look_at(workdir)
    assert "Confusion matrix" not in read.text
    assert "the 20 least accurate classes" in read.text
    assert "class 2 0.0 class 3 (100.0%)" in read.text


@pytest.fixture
def browser():
    """Returns the command of a headless Chromium."""
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


# Measures the page in a frame of a given width, because a browser's own window
# is wider than a phone.
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
    page.write(Workdir(workdir, "runs/" + "a-long-name-of-a-run" * 4))
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
    # The page is mostly empty, with curves in their colors.
    first = np.abs(pixels.astype(int) - [0, 0x72, 0xB2]).max(2) < 8
    assert first.sum() > 1000
    assert (pixels == 255).all(2).mean() > 0.5


def test_the_page_needs_no_tensorflow():
    code = (
        "import sys; import job.report.page, job.report.card, job.main;"
        "import job.report.comparison;"
        "import job.data.image_file; sys.exit('tensorflow' in sys.modules)"
    )
    root = pathlib.Path(__file__).resolve().parents[3]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
