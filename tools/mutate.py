"""Mutation check of the core: are small bugs in memory/, linux/ and replay/ caught by their tests?

For each module, a seeded sample of mutants is drawn. A mutant is the module with one small change:
a comparison that includes its limit, an `and` for an `or`, a sign, a constant plus one, a statement
left out. Each mutant runs in a process of its own under the module's own tests and, if they pass,
under the tests of the random model. No file is changed: the changed syntax tree is compiled when
the module is imported.

mutmut and cosmic-ray change files and start a whole test run for each mutant. Here, a mutant's
process is a fork that has imported pytest and its like already, and a file's tests stop at the
first failure: about two seconds a mutant.

    nice python tools/mutate.py                        all modules, 12 mutants each
    nice python tools/mutate.py --sample 0 memory/brk  all mutants of one module

Prints the share of caught mutants per module, and each survivor. The exit status is 1 if less than
90 % of all mutants are caught. tests/quality/survivors.md lists the survivors of the last full run,
with the reason of each.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.machinery
import os
import random
import signal
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "laconic"
PACKAGES = ("memory", "linux", "replay")
REQUIRED = 0.9

UNIT_TESTS = ROOT / "tests" / "unit"
#: Test files in UNIT_TESTS that concern every module of a package.
SHARED = {
    "memory": ("memory/test_pictures", "memory/test_errno", "memory/test_manager"),
    "linux": ("linux/test_pal", "linux/test_proc", "linux/test_shown"),
    "replay": ("replay/test_engine", "commands/test_replay", "replay/test_thread"),
}
#: Further test files of single modules.
OWN = {
    "memory/change": ("memory/test_vma",),
    "memory/flags": ("memory/test_vma",),
    "memory/names": ("commands/test_maps",),
    "replay/__init__": ("replay/test_pals",),
    "replay/engine": ("replay/test_assumed",),
    "replay/sizebounds": ("libos/test_sizes",),
}
#: The model runs the bookkeeping and the Linux host's rules; no replay takes part in it.
MODEL = "tests/model/test_model.py"
MODEL_PACKAGES = ("memory", "linux")
MODEL_TESTS = "random_calls or once_failed"


class Mutant(NamedTuple):
    """One change: its line, what it does, and the module's changed syntax tree."""

    line: int
    change: str
    tree: ast.Module


COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}


def _is_type(node: ast.BinOp) -> bool:
    # `X | None` in an alias is a type.
    return any(
        isinstance(side, ast.Constant) and side.value is None for side in (node.left, node.right)
    )


def _negated(test: ast.expr) -> ast.expr:
    return ast.UnaryOp(ast.Not(), test)


def replacements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what may stand in the place of one node, each a small bug."""
    match node:
        case ast.Compare(left, [operator, *others], comparators):
            yield ast.Compare(left, [COMPARISONS[type(operator)](), *others], comparators)
        case ast.BoolOp(operator, values):
            other = ast.Or() if isinstance(operator, ast.And) else ast.And()
            yield ast.BoolOp(other, values)
        case ast.BinOp(left, operator, right) if type(operator) in OPERATORS and not _is_type(node):
            yield ast.BinOp(left, OPERATORS[type(operator)](), right)
        case ast.AugAssign(target, operator, value) if type(operator) in OPERATORS:
            yield ast.AugAssign(target, OPERATORS[type(operator)](), value)
            yield ast.Pass()
        case ast.UnaryOp(ast.Not() | ast.USub() | ast.Invert(), operand):
            yield operand
        case ast.Constant(bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(int() as value):
            yield ast.Constant(value + 1)
        case ast.If(ast.Name() | ast.Attribute() | ast.Call() as test, body, orelse):
            yield ast.If(_negated(test), body, orelse)
        case ast.IfExp(ast.Name() | ast.Attribute() | ast.Call() as test, body, orelse):
            yield ast.IfExp(_negated(test), body, orelse)
        case ast.Assign([ast.Attribute() | ast.Subscript()]) | ast.Delete() | ast.Break():
            yield ast.Pass()
        case ast.Expr(ast.Call()):
            yield ast.Pass()


#: Parts of a module that no test can or need guard: types, checks of the module's own, slots.
def _is_skipped(parent: ast.AST, field: str, node: ast.AST) -> bool:
    if field in ("annotation", "returns", "decorator_list", "type_params"):
        return True
    if isinstance(node, ast.Assert | ast.Import | ast.ImportFrom):
        return True
    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("__slots__", "__all__"):
        return True
    is_typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    return is_typing_only or (isinstance(node, ast.FunctionDef) and node.name == "check")


def _places(
    tree: ast.AST, path: tuple[tuple[str, int], ...] = ()
) -> Iterator[tuple[tuple[str, int], ...]]:
    # The paths of all nodes below `tree`: pairs of a field and an index in it, or -1 for a single
    # node.
    for field, value in ast.iter_fields(tree):
        children = value if isinstance(value, list) else [value]
        for index, child in enumerate(children):
            if not isinstance(child, ast.AST) or _is_skipped(tree, field, child):
                continue
            here = (*path, (field, index if isinstance(value, list) else -1))
            yield here
            yield from _places(child, here)


def _child(node: ast.AST, step: tuple[str, int]) -> ast.AST:
    value = getattr(node, step[0])
    child = value if step[1] < 0 else value[step[1]]
    assert isinstance(child, ast.AST)
    return child


def _put(node: ast.AST, step: tuple[str, int], child: ast.AST) -> None:
    if step[1] < 0:
        setattr(node, step[0], child)
    else:
        getattr(node, step[0])[step[1]] = child


def mutants(source: str) -> list[Callable[[], Mutant]]:
    """Return a maker for each mutant of a module's source, in the order of its text."""
    tree = ast.parse(source)
    makers: list[Callable[[], Mutant]] = []
    for path in _places(tree):
        node: ast.AST = tree
        for step in path:
            node = _child(node, step)
        for number, _ in enumerate(replacements(node)):
            makers.append(lambda path=path, number=number: _made(tree, path, number))  # type: ignore[misc]
    return makers


def _made(tree: ast.Module, path: tuple[tuple[str, int], ...], number: int) -> Mutant:
    changed = copy.deepcopy(tree)
    parent: ast.AST = changed
    for step in path[:-1]:
        parent = _child(parent, step)
    node = _child(parent, path[-1])
    new = list(replacements(node))[number]
    ast.copy_location(new, node)
    before = ast.unparse(node).partition("\n")[0]
    _put(parent, path[-1], new)
    ast.fix_missing_locations(changed)
    after = ast.unparse(new).partition("\n")[0]
    return Mutant(getattr(node, "lineno", 0), f"{before}  →  {after}", changed)


def test_files(module: str) -> list[str]:
    """Return the module's own test files that exist; `module` is as in `memory/brk`."""
    package, _, name = module.partition("/")
    names = (f"{package}/test_{name}", *OWN.get(module, ()), *SHARED[package])
    files = [UNIT_TESTS / f"{name}.py" for name in dict.fromkeys(names)]
    return [str(file) for file in files if file.exists()]


LOADED, CAUGHT, PASSED = 1, 2, 3


def _test(module: str, tree: ast.Module | None, tests: list[str]) -> int:
    # In a process of its own: the exit status of pytest with the changed module, 70 if it was not
    # imported.
    name = "laconic." + module.replace("/", ".").removesuffix(".__init__")
    original = importlib.machinery.SourceFileLoader.get_code
    loaded = tree is None

    def get_code(
        self: importlib.machinery.SourceFileLoader, fullname: str
    ) -> types.CodeType | None:
        nonlocal loaded
        if fullname != name or tree is None:
            return original(self, fullname)
        loaded = True
        return compile(tree, str(self.path), "exec")

    importlib.machinery.SourceFileLoader.get_code = get_code  # type: ignore[method-assign, assignment]
    import pytest

    # Without --assert=plain, pytest would load the modules of an installed plugin by itself.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    options = ["-q", "-x", "--assert=plain", "-p", "no:cacheprovider"]
    status = pytest.main([*options, *tests])
    return int(status) if loaded else 70


def run(module: str, tree: ast.Module | None, tests: list[str], limit: float) -> bool:
    """Return whether the tests pass with the module changed to `tree`; False after `limit` seconds.

    Raises RuntimeError if the tests do not import the module.
    """
    child = os.fork()
    if not child:
        status = 71
        try:
            os.setsid()
            null = os.open(os.devnull, os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(null, fd)
            status = _test(module, tree, tests)
        finally:
            os._exit(status)
    end = time.monotonic() + limit
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            if os.waitstatus_to_exitcode(status) == 70:
                raise RuntimeError(f"the tests of {module} do not import it: {' '.join(tests)}")
            return status == 0
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


class Score(NamedTuple):
    """Results of one module: mutants that exist, that ran, and that each set of tests caught."""

    total: int
    ran: int
    by_own: int
    by_model: int
    survivors: list[str]

    @property
    def share(self) -> float:
        """The share of caught mutants, 1 if none ran."""
        return (self.by_own + self.by_model) / self.ran if self.ran else 1.0


def check(module: str, sample: int, seed: int, model: bool) -> Score:
    """Run a sample of a module's mutants, all of them if `sample` is 0."""
    makers = mutants((SOURCE / f"{module}.py").read_text())
    total = len(makers)
    if sample and sample < total:
        chosen = sorted(random.Random(f"{seed} {module}").sample(range(total), sample))
        makers = [makers[number] for number in chosen]
    tests = test_files(module)
    has_model = model and module.partition("/")[0] in MODEL_PACKAGES
    start = time.monotonic()
    if makers and not run(module, None, tests, 300):
        raise RuntimeError(f"the tests of {module} fail without a change: {' '.join(tests)}")
    limit = 20 + 4 * (time.monotonic() - start)
    by_own = by_model = 0
    survivors = []
    for maker in makers:
        mutant = maker()
        if not run(module, mutant.tree, tests, limit):
            by_own += 1
        elif has_model and not run(module, mutant.tree, [MODEL, "-k", MODEL_TESTS], 180):
            by_model += 1
        else:
            survivors.append(f"{module}.py:{mutant.line}: {mutant.change}")
            print(f"  survived: {survivors[-1]}", flush=True)
    return Score(total, len(makers), by_own, by_model, survivors)


def modules() -> list[str]:
    """Return all modules of the checked packages, as in `memory/brk`, that contain code."""
    paths = [path for package in PACKAGES for path in sorted((SOURCE / package).rglob("*.py"))]
    names = [str(path.relative_to(SOURCE).with_suffix("")) for path in paths]
    return [name for name in names if mutants((SOURCE / f"{name}.py").read_text())]


def main() -> int:
    """Check the modules of the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("module", nargs="*", help="as in memory/brk; all by default")
    parser.add_argument("--sample", type=int, default=12, help="mutants per module, 0 for all")
    parser.add_argument("--seed", type=int, default=1, help="of the sample (default: 1)")
    parser.add_argument("--no-model", action="store_true", help="the module's own tests only")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(SOURCE.parent))
    import hypothesis  # noqa: F401 (each mutant's process inherits what is imported here)
    import pyarrow  # noqa: F401
    import pytest  # noqa: F401

    scores = []
    for module in arguments.module or modules():
        score = check(module, arguments.sample, arguments.seed, not arguments.no_model)
        scores.append(score)
        print(
            f"{module:<20} {score.ran:>4} of {score.total:>4} mutants, {score.by_own} caught by "
            f"its own tests, {score.by_model} by the model: {score.share:.0%}",
            flush=True,
        )
    ran = sum(score.ran for score in scores)
    caught = sum(score.by_own + score.by_model for score in scores)
    share = caught / ran if ran else 1.0
    print(f"{'all':<20} {ran} mutants, {caught} caught: {share:.1%}")
    return 0 if share >= REQUIRED else 1


if __name__ == "__main__":
    sys.exit(main())
