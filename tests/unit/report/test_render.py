"""Tests of user-defined texts in HTML, Markdown and on a terminal."""

import html
import re

import pytest

from job.report import render
from tests.support.finished_run import HOSTILE


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_one_printable_line(name):
    text = render.printable(name)
    assert text.isprintable()
    text.encode()  # A lone surrogate would have no encoding.
    assert render.printable("kept as it is: ü, 猫") == "kept as it is: ü, 猫"


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_does_not_become_markdown(name):
    text = str(render.escape_markdown(name))
    left = re.sub(r"&#\d+;", "", text)
    assert not re.search(r"[&<>|*`\[\]\\#~$\n]|\b_|_\b", left)
    assert html.unescape(text) == render.printable(name)


@pytest.mark.parametrize("name", HOSTILE)
def test_code_span_ends_at_its_fence(name):
    text = str(render.code_markdown(name))
    fence = re.match("`+", text)[0]
    inner = text.removeprefix(fence).removesuffix(fence)
    assert fence not in re.findall("`+", inner)
    assert not re.search(r"(?<!\\)\||\n", inner)
    assert inner.strip().replace(r"\|", "|") == render.printable(name).strip()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.12345, "12.35%"),
        (1, "100.00%"),
        (float("nan"), ""),
        (10**400, ""),
        (1e308, ""),
        (None, ""),
        ("0.5", ""),
        (True, ""),
        ({}, ""),
    ],
)
def test_value_that_is_not_a_number_is_left_out(value, text):
    assert render.percent(value) == text
    assert bool(render.number(value)) == bool(text)
    assert bool(render.duration(value)) == bool(text)


def test_a_long_name_keeps_both_ends():
    assert render.shorten("a" * 10 + "b" * 90, 20) == "a" * 9 + "…" + "b" * 10
    assert render.shorten("short", 20) == "short"
