"""Tests of README.md, CONTRIBUTING.md and docs/: links and file names."""

import json
import math
import pathlib
import re
import statistics

import pytest

from configs import default
from docs import fields, tables
from job.config import serialization
from job.diagnose import costs, finding
from job.report import comparison
from tests.support.jobs import ROOT

PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")], key=lambda path: path.name
)
# Files whose texts name other files. tests/ also names files that are absent.
SOURCES = sorted(
    path
    for folder in ("benchmarks", "configs", "job", "k8s")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".py", ".yaml", ".j2"}
)

# Accuracies that others have published, each with its source in the text.
PUBLISHED = {"94.16", "95.76", "94.06"}


def prose(text: str) -> str:
    """Returns Markdown without fenced blocks, indented blocks and code spans.

    Args:
      text: Markdown source.
    """
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^    .*$", "", text, flags=re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(text: str) -> set[str]:
    """Returns the anchors that GitHub gives to the headings of a page.

    Args:
      text: Markdown source.
    """
    found = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
        found.add(kept.replace(" ", "-"))
    return found


def broken_links(page: pathlib.Path) -> list[str]:
    """Returns the relative links of a page that lead nowhere.

    Args:
      page: Markdown file.
    """
    broken = []
    # The title of a badge or an image may itself be a link: ](target) is
    # enough to find every one.
    for link in re.findall(r"\]\(([^)\s]+)[^)]*\)", prose(page.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        resolves = target.exists()
        if resolves and anchor:
            resolves = anchor in anchors(target.read_text())
        if not resolves:
            broken.append(link)
    return broken


def missing_files(text: str, root: pathlib.Path) -> list[str]:
    """Returns the names of absent files of the repository in a text.

    Args:
      text: Any text. Names with capitals, as in configs/NAME.py, are examples.
      root: Directory of the repository.
    """
    names = re.findall(
        r"(?<![\w/.-])((?:benchmarks|configs|docs|job|k8s|tests)/[a-z0-9_/.-]*"
        r"\.(?:md|png|py|yaml))\b",
        text,
    )
    return sorted({name for name in names if not (root / name).exists()})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_resolve(page):
    broken = broken_links(page)
    assert not broken, broken


@pytest.mark.parametrize(
    "path",
    [*PAGES, ROOT / "Makefile", ROOT / "Dockerfile", *SOURCES],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_named_files_exist(path):
    missing = missing_files(path.read_text(), ROOT)
    assert not missing, missing


def test_the_index_lists_every_page():
    index = (ROOT / "docs/index.md").read_text()
    listed = re.findall(r"^\| \[([\w-]+\.md)\]\(\1\) \|", index, re.MULTILINE)
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert sorted(listed) == sorted(pages - {"index.md"})


def test_a_broken_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    (tmp_path / "other.md").write_text("# A heading: of `two` parts\n")
    page.write_text(
        "# Here\n"
        "[a](other.md) [b](other.md#a-heading-of-two-parts) [c](#here)"
        " [d](https://example.org/none) `[e](code.md)`\n"
        "![picture](none.png) [f](other.md#none) [g](none/other.md)\n"
        "[![badge](absent.svg)](#nowhere)\n"
        "    [h](indented.md)\n"
    )
    assert broken_links(page) == [
        "none.png",
        "other.md#none",
        "none/other.md",
        "absent.svg",
        "#nowhere",
    ]


def test_a_missing_file_is_found(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/there.py").touch()
    text = "configs/there.py:8ep, configs/NAME.py, see docs/gone.md. runs/a.py"
    assert missing_files(text, tmp_path) == ["docs/gone.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_tables_of_results_are_made_from_the_result_files(page):
    text = page.read_text()
    assert tables.with_tables(text) == text, "python -m docs.tables write"


def test_the_noise_of_a_run_is_that_of_the_result_files():
    squares, freedom = 0.0, 0
    for file in ROOT.glob("docs/results/*.json"):
        by_variant = {}
        for run in json.loads(file.read_text())["runs"]:
            by_variant.setdefault(run["variant"], []).append(run["accuracy"])
        for values in by_variant.values():
            if len(values) > 1:
                squares += (len(values) - 1) * statistics.variance(values)
                freedom += len(values) - 1
    noise = math.sqrt(squares / freedom)
    assert pytest.approx(noise, abs=0.02) == comparison.NOISE
    assert pytest.approx(2 * math.sqrt(2) * noise, abs=0.06) == finding.NOISE
    page = (ROOT / "docs/results.md").read_text()
    assert f"noise between seeds is {comparison.NOISE} points" in page


def test_every_result_file_is_shown_in_results_md():
    page = (ROOT / "docs/results.md").read_text()
    shown = set(re.findall(r"<!-- results (\S+) -->", page))
    assert shown == {file.stem for file in ROOT.glob("docs/results/*.json")}


@pytest.mark.parametrize("name", ["README.md", "docs/results.md"])
def test_every_accuracy_in_prose_is_one_of_a_result_file(name):
    text = (ROOT / name).read_text()
    text = re.sub(r"`[^`\n]*`|arXiv:\S+", "", text)
    text = re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.M | re.S)
    text = re.sub(r"(<!-- results).*?(<!-- end -->)", "", text, flags=re.DOTALL)
    stated = set(re.findall(r"(?<![\d.,+-])[1-9]\d\.\d\d(?![\d.]| ?s\b)", text))
    assert stated <= tables.accuracies() | PUBLISHED


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_pasted_diagnoses_have_the_words_and_costs_of_today(page):
    text = page.read_text()
    findings = re.findall(r"^Finding \d+: (.+) \[(\w+)\]$", text, re.M)
    for title, check in findings:
        # The check composes the title of a finding that has none in the file.
        assert finding.MISTAKES[check].get("title", title) == title
    known = [x for x in vars(costs).values() if isinstance(x, finding.Cost)]
    known += [
        finding.Cost(None, entry["source"])
        for entry in finding.MISTAKES.values()
        if "source" in entry
    ]
    pasted = set(re.findall(r"^  Cost +(.+)$", text, re.M))
    assert pasted <= {cost.text() for cost in known}


def test_table_of_fields_is_made_from_the_default_config():
    page = (ROOT / "docs/configuration.md").read_text()
    assert fields.with_table(page) == page, "python -m docs.fields"
    shown = {name for names, _ in fields.comments() for name in names}
    assert shown == set(serialization.flatten(default.get_config()))
