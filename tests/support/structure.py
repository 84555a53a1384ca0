"""Structure of the source: modules, imports, sizes and the documented order.

Every function takes the root of a source tree or the text of a page, so that
tests can plant an error in a tree of their own. A function that searches for
errors returns one line for each of them.
"""

import ast
import graphlib
import pathlib
import re
from collections.abc import Iterator, Mapping

MODULE_LINES = 400
FUNCTION_LINES = 80
# Modules that should fit on one or two screens.
SPECIAL_LINES = {"job/main.py": 150, "job/train.py": 250}

Graph = dict[str, set[str]]


def find_modules(root: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns the modules of job/ and configs/ by their dotted names.

    Args:
      root: Directory that holds job/ and configs/.
    """
    found = {}
    for top in ("job", "configs"):
        for path in sorted((root / top).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


def find_packages(root: pathlib.Path) -> dict[str, str]:
    """Returns the package of each module, as docs/architecture.md writes it.

    Args:
      root: Directory that holds job/ and configs/.

    Returns:
      Dotted name -> package: `data/` for a module of job/data/, `train.py` for
      job/train.py, `configs/` for a config. The package `job` itself is absent.
    """
    found = {}
    for module, path in find_modules(root).items():
        parts = path.relative_to(root).parts
        if parts[0] == "configs":
            found[module] = "configs/"
        elif len(parts) > 2:
            found[module] = f"{parts[1]}/"
        elif parts[1] != "__init__.py":
            found[module] = parts[1]
    return found


def import_graph(root: pathlib.Path) -> Graph:
    """Returns the modules that each module imports, also inside functions.

    Args:
      root: Directory that holds job/ and configs/.
    """
    modules = find_modules(root)
    graph: Graph = {}
    for module, path in modules.items():
        is_package = path.name == "__init__.py"
        package = module if is_package else module.rpartition(".")[0]
        graph[module] = set()
        for name in _imported_names(ast.parse(path.read_text()), package):
            # `from job.storage import disk` names a module, `from job.storage
            # import Storage` a member of one.
            for candidate in (name, name.rpartition(".")[0]):
                if candidate in modules:
                    graph[module].add(candidate)
                    break
        graph[module].discard(module)
    return graph


def _imported_names(tree: ast.Module, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                parts = parts[: len(parts) - node.level + 1]
                base = ".".join([*parts, base] if base else parts)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def package_graph(graph: Graph, packages: Mapping[str, str]) -> Graph:
    """Returns the packages that each package imports.

    Args:
      graph: Imports between modules.
      packages: Package of each module.
    """
    result: Graph = {package: set() for package in packages.values()}
    for module, package in packages.items():
        for name in graph[module]:
            if name in packages and packages[name] != package:
                result[package].add(packages[name])
    return result


def find_cycle(graph: Graph) -> str:
    """Returns an import cycle as `a -> b -> a`, or an empty string.

    Args:
      graph: Imports between modules or packages.
    """
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        # graphlib lists a node after the node that it depends on.
        return " -> ".join(reversed(error.args[1]))
    return ""


def read_order(page: str) -> dict[str, int]:
    """Returns the level of each package from the table of docs/architecture.md.

    Args:
      page: Text of the page; a row begins with `| level | package |`.
    """
    rows = re.findall(r"^\| (\d+) \| `([\w./]+)` \|", page, re.MULTILINE)
    return {package: int(level) for level, package in rows}


def read_modules(page: str) -> list[str]:
    """Returns the module names in the table of docs/architecture.md.

    Args:
      page: Text of the page; a row begins with a path relative to job/.
    """
    return re.findall(r"^\| `([\w/]+\.py)` \|", page, re.MULTILINE)


def read_config_readers(page: str) -> set[str]:
    """Returns the packages that docs/architecture.md allows to read a config.

    Args:
      page: Text of the page, with a sentence "Only ... read a ConfigDict."
    """
    sentence = re.search(r"^Only ([^.]|\.py)+ read a ConfigDict\.", page, re.M)
    return set(re.findall(r"`([\w./]+)`", sentence[0])) if sentence else set()


def wrong_imports(root: pathlib.Path, order: Mapping[str, int]) -> list[str]:
    """Returns the imports that do not go from one level to a lower one.

    Args:
      root: Directory that holds job/ and configs/.
      order: Level of each package; 1 is the top.
    """
    packages = find_packages(root)
    found = []
    for module, imported in import_graph(root).items():
        for name in sorted(imported):
            pair = packages.get(module), packages.get(name)
            if pair[0] == pair[1] or not all(p in order for p in pair):
                continue
            levels = order[pair[0]], order[pair[1]]
            if levels[0] >= levels[1]:
                kind = "sideways" if levels[0] == levels[1] else "upward"
                found.append(
                    f"{module} imports {name}: {kind}, from level {levels[0]}"
                    f" to level {levels[1]}"
                )
    return found


def wrong_config_readers(
    root: pathlib.Path, readers: set[str] | frozenset[str]
) -> list[str]:
    """Returns the modules that import ml_collections and should not.

    Args:
      root: Directory that holds job/ and configs/.
      readers: Packages that may.
    """
    packages = find_packages(root)
    found = []
    for module, path in find_modules(root).items():
        package = packages.get(module, "")
        names = set(_imported_names(ast.parse(path.read_text()), module))
        if package not in readers | {"configs/"} and any(
            name.partition(".")[0] == "ml_collections" for name in names
        ):
            found.append(f"{module} imports ml_collections")
    return found


def wrong_names(root: pathlib.Path, page: str) -> list[str]:
    """Returns the differences between docs/architecture.md and the modules.

    Args:
      root: Directory that holds job/ and configs/.
      page: Text of the page.
    """
    job = root / "job"
    modules = {
        str(path.relative_to(job))
        for path in job.rglob("*.py")
        if path.name != "__init__.py"
    }
    named = read_modules(page)
    packages, order = set(find_packages(root).values()), read_order(page)
    return [
        *(f"not in the page: job/{m}" for m in sorted(modules - {*named})),
        *(f"not in job/: {m}" for m in sorted({*named} - modules)),
        *(f"listed twice: {m}" for m in sorted({*named}) if named.count(m) > 1),
        *(f"without a level: {p}" for p in sorted(packages - order.keys())),
        *(f"no such package: {p}" for p in sorted(order.keys() - packages)),
    ]


def module_lines(root: pathlib.Path) -> dict[str, int]:
    """Returns the number of lines of each module of job/ by its path.

    Args:
      root: Directory that holds job/.
    """
    return {
        str(path.relative_to(root)): len(path.read_text().splitlines())
        for path in sorted((root / "job").rglob("*.py"))
    }


def function_lines(root: pathlib.Path) -> dict[str, int]:
    """Returns the number of lines of each function, without its docstring.

    Args:
      root: Directory that holds job/.

    Returns:
      `job/PATH.py::NAME` -> lines from `def` to the last line, those of nested
      functions included. NAME has the classes and functions around it.
    """
    found = {}
    for path in sorted((root / "job").rglob("*.py")):
        prefix = f"{path.relative_to(root)}::"
        for name, node in _functions(ast.parse(path.read_text())):
            assert node.end_lineno
            lines = node.end_lineno - node.lineno + 1
            first = node.body[0]
            if ast.get_docstring(node) is not None and first.end_lineno:
                lines -= first.end_lineno - first.lineno + 1
            found[prefix + name] = lines
    return found


def _functions(
    tree: ast.AST, prefix: str = ""
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for node in ast.iter_child_nodes(tree):
        name = prefix
        if isinstance(
            node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        ):
            name = f"{prefix}{node.name}."
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield name[:-1], node
        yield from _functions(node, name)


def read_exceptions(page: str) -> dict[str, int]:
    """Returns the ceilings from the table of size exceptions.

    Args:
      page: Text of CONTRIBUTING.md; a row begins with `job/PATH.py` or
        `job/PATH.py::FUNCTION` and a number of lines.
    """
    rows = re.findall(
        r"^\| `(job/[\w/]+\.py(?:::[\w.]+)?)` \| (\d+) \|", page, re.MULTILINE
    )
    return {name: int(lines) for name, lines in rows}


def wrong_sizes(root: pathlib.Path, exceptions: Mapping[str, int]) -> list[str]:
    """Returns the modules and functions above their ceilings, and stale rows.

    Args:
      root: Directory that holds job/.
      exceptions: Ceilings of modules and functions that exceed the usual ones.
    """
    usual = {
        **{
            name: (lines, SPECIAL_LINES.get(name, MODULE_LINES))
            for name, lines in module_lines(root).items()
        },
        **{
            name: (lines, FUNCTION_LINES)
            for name, lines in function_lines(root).items()
        },
    }
    found = [
        f"{name}: {lines} lines, at most {exceptions.get(name, ceiling)}"
        for name, (lines, ceiling) in usual.items()
        if lines > exceptions.get(name, ceiling)
    ]
    for name in exceptions:
        lines, ceiling = usual.get(name, (0, 0))
        if lines <= ceiling:
            found.append(f"{name}: remove this exception")
    return found
