"""The modules of job/ follow docs/architecture.md and its size ceilings."""

import pathlib
import textwrap

import pytest

from tests.support import structure
from tests.support.jobs import ROOT

MOST_MODULES_AT_THE_TOP = 7
MOST_PACKAGES = 14
MOST_MODULE_EXCEPTIONS = 5
MOST_FUNCTION_EXCEPTIONS = 3

ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


def assert_none(errors: list[str]) -> None:
    assert not errors, "\n" + "\n".join(errors)


def test_no_module_is_part_of_an_import_cycle():
    graph = structure.import_graph(ROOT)
    assert len(graph["job.train"]) > 10
    assert structure.find_cycle(graph) == ""


def test_no_package_is_part_of_an_import_cycle():
    packages = structure.find_packages(ROOT)
    graph = structure.import_graph(ROOT)
    assert structure.find_cycle(structure.package_graph(graph, packages)) == ""


def test_every_import_goes_to_a_lower_level():
    order = structure.read_order(ARCHITECTURE)
    assert_none(structure.wrong_imports(ROOT, order))


def test_only_the_documented_packages_read_a_config():
    readers = structure.read_config_readers(ARCHITECTURE)
    assert "build.py" in readers
    assert_none(structure.wrong_config_readers(ROOT, readers))


def test_the_documentation_names_every_module_and_no_other():
    assert_none(structure.wrong_names(ROOT, ARCHITECTURE))


def test_the_top_level_stays_small():
    top = {
        package
        for module, package in structure.find_packages(ROOT).items()
        if module.startswith("job.")
    }
    modules = {name for name in top if name.endswith(".py")}
    assert len(modules) <= MOST_MODULES_AT_THE_TOP, sorted(modules)
    assert len(top - modules) <= MOST_PACKAGES, sorted(top - modules)


def test_modules_and_functions_are_within_their_ceilings():
    exceptions = structure.read_exceptions(CONTRIBUTING)
    assert_none(structure.wrong_sizes(ROOT, exceptions))


def test_size_exceptions_are_few():
    exceptions = structure.read_exceptions(CONTRIBUTING)
    functions = [name for name in exceptions if "::" in name]
    assert len(functions) <= MOST_FUNCTION_EXCEPTIONS
    assert len(exceptions) - len(functions) <= MOST_MODULE_EXCEPTIONS


# The tests below plant errors in a small source tree.

PAGE = """
| level | package | input |
|---|---|---|
| 1 | `main.py` | flags |
| 2 | `data/` | files |
| 2 | `model/` | pixels |
| 3 | `errors.py` | |
| 4 | `configs/` | |

Only `main.py` and
`data/` read a ConfigDict. The others do not.

| module | content |
|---|---|
| `main.py` | Entry |
| `data/binary.py` | Files |
| `model/vgg.py` | Network |
| `errors.py` | Exceptions |
"""


@pytest.fixture
def tree(tmp_path) -> pathlib.Path:
    """Returns a tree that follows PAGE."""
    for name, text in {
        "job/__init__.py": "",
        "job/main.py": "import ml_collections\nfrom job.data import binary\n",
        "job/data/__init__.py": "",
        "job/data/binary.py": "from job.errors import JobError\n",
        "job/model/__init__.py": "",
        "job/model/vgg.py": "from configs import default\n",
        "job/errors.py": "class JobError(Exception):\n    pass\n",
        "configs/__init__.py": "",
        "configs/default.py": "import ml_collections\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def add(tree: pathlib.Path, name: str, text: str) -> None:
    with (tree / name).open("a") as file:
        file.write(textwrap.dedent(text))


def test_a_tree_that_follows_its_page_has_no_errors(tree):
    graph = structure.import_graph(tree)
    assert graph["job.main"] == {"job.data.binary"}
    assert graph["job.data.binary"] == {"job.errors"}
    assert graph["job.model.vgg"] == {"configs.default"}
    order = structure.read_order(PAGE)
    assert order["model/"] == 2
    assert structure.find_cycle(graph) == ""
    assert structure.wrong_imports(tree, order) == []
    assert structure.wrong_names(tree, PAGE) == []
    assert structure.wrong_sizes(tree, {}) == []
    readers = structure.read_config_readers(PAGE)
    assert readers == {"main.py", "data/"}
    assert structure.wrong_config_readers(tree, readers) == []


@pytest.mark.parametrize(
    "line",
    [
        "import job.main",
        "from job import main",
        "from job.main import run",
        "from .. import main",
        "from ..main import run",
        "def load():\n    from job import main",
    ],
)
def test_a_cycle_is_found(tree, line):
    add(tree, "job/data/binary.py", f"{line}\n")
    cycle = structure.find_cycle(structure.import_graph(tree))
    assert sorted(set(cycle.split(" -> "))) == ["job.data.binary", "job.main"]


def test_a_cycle_between_packages_is_found(tree):
    # Neither pair of modules is a cycle.
    (tree / "job/model/layers.py").touch()
    add(tree, "job/data/binary.py", "from job.model import layers\n")
    add(tree, "job/model/vgg.py", "from job.data import binary\n")
    graph = structure.import_graph(tree)
    assert structure.find_cycle(graph) == ""
    packages = structure.find_packages(tree)
    cycle = structure.find_cycle(structure.package_graph(graph, packages))
    assert cycle in ("data/ -> model/ -> data/", "model/ -> data/ -> model/")


def test_an_upward_and_a_sideways_import_are_found(tree):
    add(tree, "job/errors.py", "from job.model import vgg\n")
    add(tree, "job/data/binary.py", "from job.model import vgg\n")
    add(tree, "configs/default.py", "from job import errors\n")
    assert structure.wrong_imports(tree, structure.read_order(PAGE)) == [
        "job.data.binary imports job.model.vgg: sideways, from level 2 to level"
        " 2",
        "job.errors imports job.model.vgg: upward, from level 3 to level 2",
        "configs.default imports job.errors: upward, from level 4 to level 3",
    ]


def test_missing_and_stale_names_are_found(tree):
    (tree / "job/data/tfds.py").touch()
    (tree / "job/report").mkdir()
    (tree / "job/report/page.py").touch()
    page = PAGE + "| `data/binary.py` | Again |\n| `plan.py` | Steps |\n"
    page += "| 5 | `storage/` | names |\n"
    assert structure.wrong_names(tree, page) == [
        "not in the page: job/data/tfds.py",
        "not in the page: job/report/page.py",
        "not in job/: plan.py",
        "listed twice: data/binary.py",
        "without a level: report/",
        "no such package: storage/",
    ]


def test_a_module_that_reads_a_config_is_found(tree):
    add(tree, "job/model/vgg.py", "from ml_collections import config_dict\n")
    readers = structure.read_config_readers(PAGE)
    found = structure.wrong_config_readers(tree, readers)
    assert found == ["job.model.vgg imports ml_collections"]


def test_too_many_lines_are_found(tree):
    add(tree, "job/data/binary.py", "# A line.\n" * 399)
    assert structure.wrong_sizes(tree, {}) == []
    add(tree, "job/data/binary.py", "# One more.\n")
    add(tree, "job/main.py", "# A line.\n" * 149)
    assert structure.wrong_sizes(tree, {}) == [
        "job/data/binary.py: 401 lines, at most 400",
        "job/main.py: 151 lines, at most 150",
    ]


def test_a_long_function_is_found(tree):
    docstring = '    """Returns\n' + "    nothing.\n" * 20 + '    """\n'
    add(
        tree,
        "job/model/vgg.py",
        f"@decorator\ndef fits():\n{docstring}" + "    pass\n" * 79,
    )
    assert structure.wrong_sizes(tree, {}) == []
    add(
        tree,
        "job/errors.py",
        "class Run:\n    def go(self):\n        def inner():\n"
        + "            pass\n" * 80,
    )
    assert structure.wrong_sizes(tree, {}) == [
        "job/errors.py::Run.go: 82 lines, at most 80",
        "job/errors.py::Run.go.inner: 81 lines, at most 80",
    ]


def test_an_exception_permits_its_own_number_of_lines(tree):
    add(tree, "job/model/vgg.py", "def vgg16():\n" + "    pass\n" * 99)
    name = "job/model/vgg.py::vgg16"
    table = f"| `{name}` | 100 | One network. |\n"
    exceptions = structure.read_exceptions(table)
    assert exceptions == {name: 100}
    assert structure.wrong_sizes(tree, exceptions) == []
    assert structure.wrong_sizes(tree, {name: 99}) == [
        f"{name}: 100 lines, at most 99"
    ]


def test_a_stale_exception_is_found(tree):
    table = "| `job/model/vgg.py` | 500 | - |\n| `job/gone.py` | 500 | - |\n"
    assert structure.wrong_sizes(tree, structure.read_exceptions(table)) == [
        "job/model/vgg.py: remove this exception",
        "job/gone.py: remove this exception",
    ]
