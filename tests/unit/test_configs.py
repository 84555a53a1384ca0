"""Tests of configs/ beyond the checks that every shipped config passes."""

import ast

import pytest

from configs import ablations, default
from job.config import serialization
from tests.support.jobs import ROOT


def names_in(source: str) -> set[str]:
    """Returns the strings of a module, and the config fields that it reads."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
        if isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            found |= {text, text.partition(".")[2]}
    return found


def test_every_field_is_read():
    read = set()
    for path in (ROOT / "job").rglob("*.py"):
        # These packages check fields without using them.
        if path.parent.name not in {"config", "diagnose"}:
            read |= names_in(path.read_text())
    unused = [
        name
        for name in serialization.flatten(default.get_config())
        if name not in read
        # These groups are passed as one object.
        and not name.startswith(("augment.", "transfer.unfreeze_epochs."))
    ]
    assert not unused


def test_a_name_that_is_read_is_found():
    source = "a = config.model.width\nb = fields['model.init']\n"
    assert {"model.width", "model.init"} <= names_in(source)
    assert "model.pooling" not in names_in(source)


@pytest.mark.parametrize("suffix", ["", "_gpu", "_transfer"])
def test_a_former_plan_name_is_an_error_that_names_the_new_one(suffix):
    with pytest.raises(ValueError, match=rf"\bbaselines{suffix}\b"):
        ablations.get_config(f"records{suffix}")
