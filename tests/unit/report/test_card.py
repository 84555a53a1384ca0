"""Tests of the model card."""

import dataclasses
import json

import pytest

from job.data import dataset
from job.report import card
from job.report import run as run_lib
from job.storage import files
from job.storage.workdir import RESULT, Workdir
from tests.support.finished_run import HOSTILE, NASTY


def write(run, step=20, class_names=dataset.CLASS_NAMES, crc32c=""):
    return card.write(run, step=step, class_names=class_names, crc32c=crc32c)


def test_the_card_has_the_figures_and_the_limits_of_a_run(workdir):
    text = write(run_lib.read(Workdir(workdir)), crc32c="00c0ffee")
    for part in (
        "| test accuracy | 75.00% |",
        "| expected calibration error | 15.00% |",
        "| `optimizer.momentum` | `0.5` |",
        "crc32c `00c0ffee`",
        "0 airplane, 1 automobile",
        "Seed 0.",
        "20 steps in 60 s on 1 replica, float32, a global batch of 64 images",
        "tensorflow 2.21.0.",
        "{difference}",
        "Limits",
    ):
        assert part in text, part
    assert NASTY not in text  # The path of the images is private.
    (workdir / RESULT).unlink()
    text = write(run_lib.read(Workdir(workdir)), step=15)
    assert "not finished. These are the weights of step 15" in text
    assert "| newest test accuracy | 75.00% at epoch 2 |" in text


def test_a_card_names_the_data_set(workdir):
    path = workdir / RESULT
    result = json.loads(path.read_text())
    for source, title in (
        ("synthetic", "synthetic images"),
        ("tfds", "CIFAR-10"),
        ("<my_images>", "&#60;my_images&#62;"),
    ):
        files.write_json(path, result | {"data_source": source})
        text = write(run_lib.read(Workdir(workdir)))
        assert text.startswith(f"# VGG16 on {title}\n")
    assert "CIFAR-10" not in text
    assert "source was `<my_images>`, with 10 classes." in text


def test_a_card_of_a_result_without_figures(workdir):
    path = workdir / RESULT
    result = json.loads(path.read_text())
    result["test_loss"] = None
    del result["images_scored"], result["params"]
    files.write_json(path, result)
    text = write(run_lib.read(Workdir(workdir)))
    assert "| test loss | unknown |" in text


def test_each_table_has_rows_of_two_cells_only(workdir):
    text = write(run_lib.read(Workdir(workdir)))
    lines = text.splitlines()
    tables = [n for n, line in enumerate(lines) if line.startswith("|--")]
    assert len(tables) == 2
    for first in tables:
        end = lines.index("", first)
        assert end - first > 5
        assert all(line.count("|") == 3 for line in lines[first - 1 : end])


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_text(workdir, name):
    run = run_lib.read(Workdir(workdir))
    plain = write(run, crc32c="00c0ffee")
    run = dataclasses.replace(
        run, fields={**run.fields, name: name, "optimizer.momentum": name}
    )
    text = write(run, class_names=(name,) * 10, crc32c=name)
    # The number of lines, cells, tags and headings is that of plain names.
    text.encode()
    lines = text.splitlines()
    assert len(lines) == len(plain.splitlines()) + 1
    assert [n for n in lines if n.startswith("#")] == [
        n for n in plain.splitlines() if n.startswith("#")
    ]
    prose = "\n".join(line for line in lines if "`" not in line)
    assert "<" not in prose
