"""The packages import in the order of docs/architecture.md, and no files import one another in a
circle."""

from __future__ import annotations

import ast
import re
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import laconic

SOURCE = Path(laconic.__file__).parent
ARCHITECTURE = Path(__file__).parents[3] / "docs" / "architecture.md"
#: Modules at the top level that use every package.
TOP_LEVEL = ("pytest_plugin", "__main__")


def package_order() -> list[str]:
    """The packages, lowest first, as the table in docs/architecture.md lists them."""
    section = ARCHITECTURE.read_text().partition("## The packages")[2].partition("\n## ")[0]
    return [*re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE), *TOP_LEVEL]


def module_name(path: Path) -> str:
    """The dotted name of a source file."""
    parts = ("laconic", *path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts).removesuffix(".__init__")


def imports(path: Path, modules: set[str]) -> set[str]:
    """The modules of the package that a file imports when it is executed; typing-only imports are
    left out."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    imported = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                imported.add(submodule if submodule in modules else node.module)
        elif isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
    return {name for name in imported if name in modules and name != "laconic"}


FILES = {module_name(path): path for path in SOURCE.rglob("*.py")}
GRAPH = {
    name: imports(path, set(FILES)) - {name} for name, path in FILES.items() if name != "laconic"
}


def test_every_package_is_in_the_table() -> None:
    packages = {name.split(".")[1] for name in GRAPH}
    assert packages == set(package_order())


def test_a_package_imports_only_packages_above_it() -> None:
    order = package_order()
    wrong = [
        f"{importer} imports {name}"
        for importer, imported in sorted(GRAPH.items())
        for name in sorted(imported)
        if order.index(name.split(".")[1]) > order.index(importer.split(".")[1])
    ]
    assert not wrong, "\n".join(wrong)


def test_no_files_import_one_another_in_a_circle() -> None:
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


def test_memory_imports_the_standard_library_only() -> None:
    imported: set[str] = set()
    for name, path in FILES.items():
        if not name.startswith("laconic.memory"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.module is not None and not node.level, f"{name}: a relative import"
                imported.add(node.module)
    assert {"laconic.memory.change", "typing"} <= imported
    others = {name for name in imported if name.split(".")[0] not in sys.stdlib_module_names}
    assert {name for name in others if not name.startswith("laconic.memory")} == set()


def test_the_main_classes_of_a_package_are_in_it() -> None:
    section = ARCHITECTURE.read_text().partition("## The packages")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([^|]*)\|$", section, re.MULTILINE)
    assert len(rows) > 10
    for package, classes in rows:
        files = [path for name, path in FILES.items() if name.split(".")[1:2] == [package]]
        text = "\n".join(path.read_text() for path in files)
        for name in re.findall(r"`(\w+)`", classes):
            assert re.search(rf"^class {name}\b", text, re.MULTILINE), f"{package} has no {name}"


TESTS = Path(__file__).parents[2]


def test_no_test_imports_from_a_test_module() -> None:
    """What several tests share is in a helper module, imported by its whole name."""
    helpers = {path.stem for path in TESTS.rglob("*.py") if path.parent != TESTS}
    wrong = []
    for path in sorted(TESTS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
                submodules = [alias.name for alias in node.names if node.module.startswith("tests")]
                names = [node.module, *(f"{node.module}.{name}" for name in submodules)]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            if not isinstance(node, ast.ImportFrom | ast.Import):
                continue
            for name in names:
                is_test = name.rpartition(".")[2].startswith("test_")
                if (is_test and name.startswith("tests")) or name in helpers:
                    wrong.append(f"{path.relative_to(TESTS)}:{node.lineno} imports {name}")
    assert not wrong, "\n".join(wrong)
