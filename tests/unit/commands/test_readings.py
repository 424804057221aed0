"""html and explain read a trace once, and model each strategy once for each enclave."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from laconic.analysis.compare import BOUND
from laconic.commands import main
from laconic.libos.sizes import ASSUMPTIONS
from laconic.libos.strategy import Strategy
from laconic.memory.change import EXTEND
from laconic.memory.space import AddressSpace
from laconic.strategies import NAMES
from laconic.trace.reader import TraceReader
from laconic.trace.schema import CODES, Row
from tests.helpers.comparetraces import READ, RW, busy
from tests.helpers.traces import BASE

#: The address spaces of the trace: the program's, and that of its child.
SPACES = 2


class Watcher:
    """Counts the traces that are opened and read, by path, and the models that are made, by
    strategy and address space."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened: Counter[str] = Counter()
        self.read: Counter[str] = Counter()
        self.models: Counter[tuple[str, int]] = Counter()
        # As long as an address space exists, no other has its id.
        self._spaces: list[AddressSpace] = []
        open_reader, batches, make = TraceReader.__init__, TraceReader.batches, Strategy.__init__

        def opened(reader: TraceReader, path: str) -> None:
            self.opened[path] += 1
            open_reader(reader, path)

        def read(reader: TraceReader) -> Iterator[list[Row]]:
            self.read[reader.path] += 1
            return batches(reader)

        def made(model: Strategy, meter: Any, space: AddressSpace, touches: Any) -> None:
            self._spaces.append(space)
            self.models[model.name, id(space)] += 1
            make(model, meter, space, touches)

        monkeypatch.setattr(TraceReader, "__init__", opened)
        monkeypatch.setattr(TraceReader, "batches", read)
        monkeypatch.setattr(Strategy, "__init__", made)

    def counts(self) -> dict[str, list[int]]:
        """By strategy: the number of its models in each address space."""
        found: dict[str, list[int]] = {}
        for (name, _), count in self.models.items():
            found.setdefault(name, []).append(count)
        return found


@pytest.fixture
def watcher(monkeypatch: pytest.MonkeyPatch) -> Watcher:
    """A count of everything from here on."""
    return Watcher(monkeypatch)


def forking(path: Path, source: str = "run") -> str:
    """A program that maps and protects memory, and forks. One of its calls begins before another
    thread's call."""
    trace = busy(path, source=source)
    trace.row("clone", 0x1200011, result=200)
    trace.row("clone", 0x10D00, result=101)
    trace.row("mmap", BASE, 4096, READ, 0x32, -1, 0, result=BASE, host_calls=1, kinds=1)
    trace.row("begin", BASE, 4096, RW, call_code=CODES["mprotect"])
    trace.row(
        "mmap",
        BASE + (1 << 24),
        4096,
        READ,
        0x32,
        -1,
        0,
        tid=101,
        result=BASE + (1 << 24),
        host_calls=1,
        kinds=1,
    )
    trace.row("mprotect", BASE, 4096, RW, host_calls=1, kinds=int(EXTEND))
    trace.row("mprotect", BASE, 4096, RW, pid=200, result=-12)
    return trace.end()


def one_each(count: int) -> dict[str, list[int]]:
    """`count` models of each strategy in each address space; the bound has one for each end of the
    cost profile."""
    return {name: [count * (2 if name == BOUND else 1)] * SPACES for name in (*NAMES, BOUND)}


#: Also with a selection, which is counted by other labels.
SELECTIONS: tuple[list[str], ...] = ([], ["--call", "mprotect"])


@pytest.mark.parametrize("options", SELECTIONS)
def test_html_reads_once_and_models_once(
    options: list[str], tmp_path: Path, watcher: Watcher
) -> None:
    path = forking(tmp_path / "a.trace")
    assert main(["html", path, *options, "-o", str(tmp_path / "a.html")]) == 0
    assert (watcher.opened, watcher.read) == ({path: 1}, {path: 1})
    counts = watcher.counts()
    counts.pop("watch", None)  # it counts for the advice, and models nothing
    assert counts == one_each(1)


def test_html_of_a_log_models_each_assumption_in_one_reading(
    tmp_path: Path, watcher: Watcher
) -> None:
    """That untouched pages are touched, or not, with each assumed size of files."""
    path = forking(tmp_path / "a.trace", "strace")
    assert main(["html", path, "-o", str(tmp_path / "a.html")]) == 0
    assert (watcher.opened, watcher.read) == ({path: 1}, {path: 1})
    counts = watcher.counts()
    counts.pop("watch")
    assert counts == one_each(2 * len(ASSUMPTIONS))


def test_html_of_two_traces_reads_each_once(tmp_path: Path, watcher: Watcher) -> None:
    before, after = forking(tmp_path / "a.trace"), forking(tmp_path / "b.trace")
    assert main(["html", before, after, "-o", str(tmp_path / "a.html")]) == 0
    assert (watcher.opened, watcher.read) == ({before: 1, after: 1},) * 2
    assert watcher.counts() == {name: counts * 2 for name, counts in one_each(1).items()}


@pytest.mark.parametrize("event", ["mprotect:4", "0", "@0.001"])
@pytest.mark.parametrize("options", SELECTIONS)
def test_explain_reads_once_and_models_once(
    event: str, options: list[str], tmp_path: Path, watcher: Watcher
) -> None:
    path = forking(tmp_path / "a.trace")
    assert main(["explain", path, event, *options]) == 0
    assert (watcher.opened, watcher.read) == ({path: 1}, {path: 1})
    counts = [count for counts in watcher.counts().values() for count in counts]
    assert set(counts) <= {1}
    if event == "mprotect:4":
        assert watcher.counts() == {name: [1] * SPACES for name in NAMES}
