"""fork, vfork, execve and threads in a comparison: whose enclave is whose, and what the work is
counted under."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from laconic.analysis.compare import Compared, Model, compare
from laconic.libos.settings import Settings
from laconic.memory.change import MAP
from laconic.memory.flags import PAGE_SIZE
from laconic.memory.layout import Layout
from laconic.replay.enclaves import EXEC, FORK, LOAD
from laconic.replay.enclaves import THREAD as THREADS
from laconic.report.compare import as_json, as_text
from laconic.sgx.costs import load
from laconic.sgx.meter import Counts
from laconic.trace.reader import TraceReader
from laconic.trace.schema import CHOSEN
from tests.helpers.commandline import laconic
from tests.helpers.comparetraces import begun
from tests.helpers.traces import BASE, SIGCHLD, THREAD, Builder

VFORK = 0x4100 | SIGCHLD
RW, ANON = 3, 0x22
PAGES = 10
DEFAULTS = Settings()
#: Pages of a checkpoint's store in the parent.
STORE = 16384
GRAMINE = pytest.mark.parametrize("name", ["every-call", "skip-equal"])


def mapped(path: Path) -> Builder:
    """A program with one mapping."""
    trace = begun(path)
    trace.row(
        "mmap", 0, PAGES * PAGE_SIZE, RW, ANON, -1, 0,
        result=BASE, state=CHOSEN, host_calls=1, kinds=int(MAP),
    )  # fmt: skip
    return trace


def executes(trace: Builder, pid: int) -> None:
    """The process executes a program whose memory is empty at first."""
    layout = asdict(Layout(quiet_below=1 << 46)) | {"refused_advice": []}
    about = {"path": "/bin/other", "argv": ["other"], "bits": 64, "layout": layout}
    trace.row("execve", pid=pid, data=b"/bin/other")
    trace.row("program", 0x5555_5555_6000, 0, pid=pid, data=json.dumps(about).encode())
    trace.row("maps", 0, 2, pid=pid)


def compared(path: str, settings: Settings = DEFAULTS) -> Compared:
    names = ("every-call", "skip-equal", "laconic", "bound")
    return compare(TraceReader(path), names, load(), model=Model(settings=settings))


def counts(found: Compared, name: str, call: str) -> Counts:
    """What a strategy did for `call`, over all processes."""
    return found.strategies[name].by_call[call].high


@GRAMINE
def test_an_executed_program_is_in_the_same_enclave(tmp_path: Path, name: str) -> None:
    trace = mapped(tmp_path / "a.trace")
    executes(trace, 100)
    trace.row("exit", 0)
    found = compared(trace.end())
    total = found.strategies[name].total.high
    assert (total.ecreate, total.einit) == (1, 1)
    assert found.strategies["laconic"].total.high.ecreate == 2
    freed = counts(found, name, EXEC)
    assert (freed.ioctls, freed.emodt, freed.eremove) == (2, PAGES, PAGES)
    assert counts(found, name, LOAD).ecreate == 1
    assert EXEC not in found.strategies["laconic"].by_call
    executed = [program.path for program in found.programs]
    assert executed == ["/bin/prog", "/bin/other"]
    assert found.strategies[name].programs[1].high.emodt == PAGES, "it is the new program's work"


@GRAMINE
@pytest.mark.parametrize("executed", [True, False])
def test_vfork_is_a_fork(tmp_path: Path, name: str, executed: bool) -> None:
    """The parent's enclave stays as it is; the child has one of its own, which its program goes on
    in."""
    trace = mapped(tmp_path / "a.trace")
    trace.row("vfork", VFORK, result=102)
    if executed:
        executes(trace, 102)
    trace.row("exit", 0, pid=102)
    trace.row("exit", 0)
    found = compared(trace.end())
    sent = counts(found, name, FORK)
    assert sent.eaug >= STORE + PAGES and sent.eremove == STORE
    total = found.strategies[name].total.high
    assert total.ecreate == 2
    assert (total.eremove == STORE + PAGES) == executed
    assert FORK not in found.strategies["laconic"].by_call
    assert found.strategies[name].left == (0, 0)


@GRAMINE
def test_a_vforked_process_whose_program_is_not_followed(tmp_path: Path, name: str) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("vfork", VFORK, result=102)
    trace.row("execve", pid=102, data=b"/bin/old")
    trace.row("program", 0, 0, pid=102, data=json.dumps({"path": "/bin/old", "bits": 32}).encode())
    trace.row("exit", 0, pid=102)
    trace.row("exit", 0)
    found = compared(trace.end())
    assert found.strategies[name].total.high.ecreate == 2
    assert found.strategies[name].left[1] > 0, "nobody saw what the program freed"


@GRAMINE
def test_a_forked_childs_program_is_in_the_childs_enclave(tmp_path: Path, name: str) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("fork", SIGCHLD, result=102)
    executes(trace, 102)
    trace.row("exit", 0, pid=102)
    trace.row("exit", 0)
    total = compared(trace.end()).strategies[name].total.high
    assert (total.ecreate, total.eremove) == (2, STORE + PAGES)


@GRAMINE
def test_threads_have_a_row(tmp_path: Path, name: str) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("clone3", THREAD, result=101)
    trace.row("exit", 0, tid=101)
    trace.row("exit", 0)
    path = trace.end()
    # With the tracker's page for the LibOS's memory.
    assert counts(compared(path), name, THREADS).eaug == 98 + 1
    assert counts(compared(path, Settings(max_threads=5)), name, THREADS).eaug == 8 + 1


def test_rows_of_what_is_no_call(tmp_path: Path) -> None:
    trace = mapped(tmp_path / "a.trace")
    trace.row("clone3", THREAD, result=101)
    trace.row("fork", SIGCHLD, result=102)
    executes(trace, 102)
    trace.row("exit", 0, pid=102)
    trace.row("exit", 0)
    text = as_text(as_json(compared(trace.end())), 100, "call")
    assert {"load", "exec", "fork", "thread", "mmap"} <= set(text.split("\n"))


def test_a_heap_beyond_the_manifests_is_noted(tmp_path: Path) -> None:
    trace = begun(tmp_path / "a.trace")
    heap = 0x5555_5555_6000
    trace.row("brk", heap + (1 << 20), result=heap + (1 << 20), host_calls=1, kinds=int(MAP))
    trace.row("exit", 0)
    path = trace.end()
    found = compared(path)
    assert found.exceeded == {"sys.brk.max_size": 1 << 20}
    (note,) = as_json(found)["notes"]
    assert "1,024 KiB, and sys.brk.max_size is 256 KiB" in note
    assert "are those of a manifest that is large enough" in note
    manifest = tmp_path / "a.manifest"
    manifest.write_text('sys.brk.max_size = "64M"\n')
    words = ("compare", path, "-j", "1", "--strategy", "laconic", "--manifest", manifest)
    text = " ".join(laconic(*words).stdout.split())
    assert "does not set sgx.edmm_enable = true" in text
    assert text.endswith("costs of the profile are assumptions (--json).")
    manifest.write_text('sys.brk.max_size = "64M"\nsgx.edmm_enable = true\n')
    assert "edmm_enable" not in laconic(*words).stdout
    assert compared(path, Settings(brk_size=1 << 20)).exceeded == {}
