"""Tests of examples/: the notebook runs from its first cell to its last."""

import json

from tests.support.jobs import ROOT


def test_the_notebook_runs():
    notebook = json.loads((ROOT / "examples/packages.ipynb").read_text())
    cells = [
        "".join(cell["source"])
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
    ]
    names: dict[str, object] = {}
    for number, cell in enumerate(cells):
        exec(compile(cell, f"cell {number}", "exec"), names)
    assert len(cells) > 3
    assert names["last"] < names["first"]
