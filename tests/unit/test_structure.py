"""The map of the rooms holds: nothing imports upwards, and none is unlisted."""

import ast
import graphlib

from tests.support.jobs import ROOT

_MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(
        ".__init__"
    ): path
    for path in (ROOT / "job").rglob("*.py")
}


def imports(module: str) -> set[str]:
    """Returns what a module imports of the job, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(_MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [n if n in _MODULES else node.module for n in names]
        else:
            continue
        found |= {name for name in names if name in _MODULES}
    return found - {module}


def room(module: str) -> str:
    return ".".join(module.split(".")[:2])


def test_there_is_no_circle_between_modules_nor_between_rooms():
    graph = {module: imports(module) for module in _MODULES}
    assert len(graph["job.train"]) > 10
    order = [*graphlib.TopologicalSorter(graph).static_order()]
    assert order[-1] == "job.main"
    rooms: dict[str, set[str]] = {}
    for module, imported in graph.items():
        others = {room(other) for other in imported} - {room(module)}
        rooms.setdefault(room(module), set()).update(others)
    graphlib.TopologicalSorter(rooms).prepare()


def test_the_map_in_the_readme_has_every_room():
    readme = (ROOT / "README.md").read_text()
    named = readme[readme.index("## The map") :]
    for path in sorted((ROOT / "job").iterdir()):
        if path.is_dir() and (path / "__init__.py").exists():
            assert f"{path.name}/" in named, path
        elif path.suffix == ".py" and path.stem != "__init__":
            assert path.name in named, path
