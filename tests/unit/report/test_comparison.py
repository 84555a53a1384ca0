"""Tests of the comparison of several runs."""

import csv
import io
import json
import re

import pytest

from job import errors
from job.output import ablation
from job.report import charts, comparison, render
from job.report import run as run_lib
from job.report.comparison import Variant
from job.storage import files
from job.storage.workdir import (
    ABLATION,
    COMPARE_CSV,
    COMPARE_PAGE,
    FAILURE,
    Workdir,
)
from tests.support import finished_run
from tests.support.finished_run import HOSTILE, Reader


def write_run(folder, accuracy, *, seed=0, diverged=False, width=0.25):
    """Writes the small files of a run with three evaluations."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"seed": seed, "global_batch_size": 100, "model": {"width": width}}
    files.write_json(folder / "config.json", config)
    if diverged:
        files.write_json(folder / FAILURE, {"error": "NaN"})
    elif accuracy is not None:
        result = {
            "test_accuracy": accuracy,
            "test_accuracy_tta": accuracy + 0.01,
            "train_steps": 500,
            "train_seconds": 9.6,
            "images_per_second": 1234.0,
            "train_tflop": 5.0,
        }
        files.write_json(folder / "result.json", result)
    lines = [
        {
            "step": step,
            "epoch": step / 100,
            "split": split,
            "accuracy": step / 1000,
            "images_per_second": 100.0,
            "train_tflop": step / 100,
        }
        for step in (100, 300, 500)
        for split in ("train", "test")
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)


@pytest.mark.parametrize("cumulative", [["naive", "recipe"], []])
def test_the_report_compares_variants(tmp_path, monkeypatch, cumulative):
    record = {
        "plan": "x:y",
        "variants": ["naive", "recipe", "beside", "lost", "not_run"],
        "seeds": [0, 1],
        "cumulative": cumulative,
    }
    (tmp_path / ABLATION).write_text(json.dumps(record))
    made = {
        "naive": [0.1, None],
        "recipe": [0.8, 0.9],
        "beside": [0.101],
        "lost": [],
    }
    for variant, accuracies in made.items():
        for seed, accuracy in enumerate(accuracies):
            folder = ablation.run_folder(tmp_path, variant, seed)
            write_run(folder, accuracy, seed=seed)
    write_run(ablation.run_folder(tmp_path, "lost", 0), None, diverged=True)
    drawn = []
    draw = charts.changes

    def draw_and_record(names, *args):
        drawn.extend(names)
        return draw(names, *args)

    monkeypatch.setattr(charts, "changes", draw_and_record)
    table = comparison.write_report([tmp_path]).splitlines()
    # A side branch is not part of the waterfall.
    assert drawn == cumulative
    rows = [
        [cell.strip() for cell in row.split("|")[1:-1]] for row in table[2:]
    ]
    spent = ["10 s", "1,234", "5"]
    assert rows == [
        ["naive", "10.00", "", "11.00", "1, 1 unfinished", *spent],
        ["recipe", "85.00 ± 7.07", "+75.00", "86.00 ± 7.07", "2", *spent],
        ["beside", "10.10", "within noise", "11.10", "1", *spent],
        ["lost", "", "", "", "none finished, 1 diverged", "", "", ""],
    ]
    for name in ("waterfall.png", "curves.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / COMPARE_PAGE).read_text()
    read = Reader(page)
    assert read.tags.count("svg") == 3
    for part in ("Comparison of 6 runs", "recipe 50.00", "training cost"):
        assert part in page, part
    (tmp_path / ABLATION).write_text("{}")
    with pytest.raises(errors.ConfigError, match=r"ablation\.json: variants"):
        comparison.write_report([tmp_path])
    with pytest.raises(errors.ConfigError, match="none: no run was found"):
        comparison.write_report([tmp_path / "none"])


def test_the_page_warns_of_different_data_sets(tmp_path):
    folders = [tmp_path / name for name in ("real", "synthetic")]
    for folder, source in zip(folders, ("binary", "synthetic"), strict=True):
        write_run(folder, 0.5)
        path = folder / "result.json"
        result = json.loads(path.read_text()) | {"data_source": source}
        files.write_json(path, result)
    page = tmp_path / "out" / COMPARE_PAGE
    comparison.write_report([tmp_path / "out", folders[0]])
    assert "Different images" not in page.read_text()
    comparison.write_report([tmp_path / "out", *folders])
    text = Reader(page.read_text()).text
    assert "The data sets of the runs are CIFAR-10 and synthetic." in text


def test_the_page_has_the_config_differences_and_the_csv(tmp_path):
    folders = [tmp_path / name for name in ("one", "two")]
    for folder, width in zip(folders, (0.25, 0.5), strict=True):
        write_run(folder, 0.5, width=width, seed=int(4 * width))
        (folder / "report.html").touch()
    comparison.write_report([tmp_path / "out", *folders])
    read = Reader((tmp_path / "out" / COMPARE_PAGE).read_text())
    assert "field out one" not in read.text
    assert "field one two model.width 0.25 0.5" in read.text
    assert {"../one/report.html", "../two/report.html"} <= set(read.links)
    assert all(
        link.startswith(("#", "data:text/csv;", "../")) for link in read.links
    )
    text = (tmp_path / "out" / COMPARE_CSV).read_text()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(r["variant"], r["seed"], r["model.width"]) for r in rows] == [
        ("one", "1", "0.25"),
        ("two", "2", "0.5"),
    ]
    assert [float(row["accuracy"]) for row in rows] == [0.5, 0.5]


def test_hostile_names_stay_text(tmp_path):
    folders = [tmp_path / str(n) for n in range(len(HOSTILE))]
    for n, folder in enumerate(folders):
        write_run(folder, 0.5, width=n)
    table = comparison.write_report([tmp_path, *folders], ["", *HOSTILE])
    lines = table.splitlines()
    assert len(lines) == 2 + len(HOSTILE)
    assert {line.count("|") for line in lines} == {9}
    assert table.isascii() or "\x1b" not in table
    read = Reader((tmp_path / COMPARE_PAGE).read_text(encoding="utf-8"))
    assert "script" not in read.tags
    text = (tmp_path / COMPARE_CSV).read_text(encoding="utf-8")
    names = [row["variant"] for row in csv.DictReader(io.StringIO(text))]
    assert names == [render.printable(name) for name in HOSTILE]
    for name in names:
        assert " ".join(render.shorten(name).split()) in read.text
    # Charts also escape names, and shorten long ones.
    svgs = re.findall(
        "<svg.*?</svg>", (tmp_path / COMPARE_PAGE).read_text("utf-8"), re.DOTALL
    )
    shown = [" ".join(Reader(svg).text.split()) for svg in svgs]
    for name in (r"$\frac$ a_{b", "_hidden_", "a|b"):
        assert all(name in text for text in shown), name


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("result.json", b'{"test_accuracy": "99 %", "train_tflop": null}'),
        ("metrics.jsonl", b'{"step": 1, "split": "test", "epoch": 1}\n'),
        ("ablation.json", b"{}"),
    ],
)
def test_a_damaged_file_leaves_its_cells_empty(tmp_path, name, content):
    finished_run.write_run(tmp_path / "a")
    finished_run.write_run(tmp_path / "b")
    (tmp_path / "a" / name).write_bytes(content)
    table = comparison.write_report([tmp_path / "a", tmp_path / "b"])
    assert len(table.splitlines()) == 4


def test_the_seeds_of_a_variant_are_one_row(tmp_path):
    folders = [tmp_path / str(n) for n in range(3)]
    for n, folder in enumerate(folders):
        write_run(folder, 0.5, seed=n)
    runs = tuple(run_lib.read(Workdir(folder)) for folder in folders)
    heads, rows = comparison.table([Variant("same", runs)])
    assert rows[0][:2] == ["same", "50.00 ± 0.00"]
    assert heads[4] == "runs"
    assert rows[0][4] == "3"


@pytest.mark.parametrize(
    ("widths", "names"),
    [
        ((0.25, 0.25), ["recipe", "recipe"]),
        ((0.25, 0.5), ["recipe", "y/recipe"]),
    ],
)
def test_only_equal_settings_of_two_ablations_are_pooled(
    tmp_path, widths, names
):
    record = {"plan": "x:y", "variants": ["recipe"], "seeds": [0]}
    for seed, (name, width) in enumerate(zip("xy", widths, strict=True)):
        folder = tmp_path / name
        write_run(
            ablation.run_folder(folder, "recipe", 0),
            0.8,
            seed=seed,
            width=width,
        )
        (folder / ABLATION).write_text(json.dumps({**record, "cumulative": []}))
    comparison.write_report([tmp_path / "x", tmp_path / "y"])
    rows = csv.DictReader(
        io.StringIO((tmp_path / "x" / COMPARE_CSV).read_text())
    )
    assert [row["variant"] for row in rows] == names
