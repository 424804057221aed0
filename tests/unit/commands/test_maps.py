"""laconic maps: an address space at some moment, in the kernel's own format."""

from __future__ import annotations

from pathlib import Path

import pytest

from laconic.commands import main
from laconic.memory.flags import (
    VM_DONTEXPAND,
    VM_EXEC,
    VM_GROWSDOWN,
    VM_MAYSHARE,
    VM_PFNMAP,
    VM_READ,
    VM_SHARED,
    VM_WRITE,
)
from laconic.memory.layout import Layout
from laconic.memory.space import AddressSpace
from laconic.memory.vma import File, Vma
from laconic.report.maps import as_text
from tests.helpers.replaytraces import PAGE, known
from tests.helpers.traces import BASE, Builder

SHARED = VM_READ | VM_WRITE | VM_SHARED | VM_MAYSHARE
TOP = f"{BASE:x}-{BASE + 8 * PAGE:x}"


def printed(capfd: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """What `laconic maps WORDS` prints: ranges and permissions."""
    assert main(["maps", *words]) == 0
    return [line[: line.index(" 00000000 ")] for line in capfd.readouterr().out.splitlines()]


def test_the_kernel_s_format() -> None:
    """Columns, labels and escapes as show_map_vma prints them."""
    file = File(8, 1, 4711, "/tmp/a\nb c")
    entries = [
        (0x1000, 0x2000, Vma(VM_READ | VM_EXEC, file, -0x3000)),
        (0x2000, 0x3000, Vma(SHARED, File(0, 1, 5, "/dev/zero (deleted)"), 0x2000)),
        (0x5000, 0x6000, Vma(VM_READ | VM_WRITE)),
        (0x6000, 0x7000, Vma(VM_READ | VM_WRITE, name="some heap")),
        (0x9000, 0xA000, Vma(0, name="odd name")),
        (0xB000, 0xC000, Vma(VM_READ | VM_GROWSDOWN)),
        (0x7FFF00000000, 0x7FFF00010000, Vma(VM_READ | VM_WRITE | VM_GROWSDOWN)),
        (0x7FFF00020000, 0x7FFF00024000, Vma(VM_READ | VM_PFNMAP)),
        (0x7FFF00024000, 0x7FFF00026000, Vma(VM_READ | VM_EXEC | VM_DONTEXPAND)),
    ]
    space = AddressSpace(Layout(), entries, 0x5000)
    space.brk = 0x6800
    lines = as_text(space).splitlines()
    assert lines == [
        "00001000-00002000 r-xp 00004000 08:01 4711                               /tmp/a\\012b c",
        "00002000-00003000 rw-s 00000000 00:01 5                                  /dev/zero "
        "(deleted)",
        "00005000-00006000 rw-p 00000000 00:00 0                                  [heap]",
        "00006000-00007000 rw-p 00000000 00:00 0                                  [heap]",
        "00009000-0000a000 ---p 00000000 00:00 0                                  [anon:odd name]",
        "0000b000-0000c000 r--p 00000000 00:00 0 ",
        "7fff00000000-7fff00010000 rw-p 00000000 00:00 0                          [stack]",
        "7fff00020000-7fff00024000 r--p 00000000 00:00 0                          [vvar]",
        "7fff00024000-7fff00026000 r-xp 00000000 00:00 0                          [vdso]",
    ]


def test_moments(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Before an event's number, at a time, at the end; the trace's rows are a millisecond apart."""
    path = known(tmp_path / "a.trace")
    halves = [f"{BASE:x}-{BASE + 4 * PAGE:x} r--p", f"{BASE + 4 * PAGE:x}-{BASE + 8 * PAGE:x} rw-p"]
    assert printed(capfd, path, "--at", "2") == []
    assert printed(capfd, path, "--at", "3") == [f"{TOP} rw-p"]
    assert printed(capfd, path, "--at", "4") == [f"{TOP} rw-p"]
    assert printed(capfd, path, "--at", "5", "--pid", "100") == halves
    assert printed(capfd, path, "--at", "0.004s") == halves
    assert printed(capfd, path, "--at", "0.0045s") == halves
    assert printed(capfd, path, "--at", "0.005s") == [f"{TOP} rw-p"]
    last = [f"{BASE:x}-{BASE + 2 * PAGE:x} rw-p", f"{BASE + 3 * PAGE:x}-{BASE + 8 * PAGE:x} rw-p"]
    for words in ([], ["--at", "end"], ["--at", "1000000"], ["--at", "1e3s"]):
        assert printed(capfd, path, *words) == last, (
            "a process that has ended is shown as it was last"
        )


@pytest.mark.parametrize("moment", ["soon", "12.5", "-1", "-3s", "nans", "infs", "s", "", "0x10"])
def test_a_text_that_is_not_a_moment_is_refused(
    moment: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["maps", known(tmp_path / "a.trace"), f"--at={moment}"]) == 2
    assert f"--at {moment!r} is not a moment" in capfd.readouterr().err


def test_which_process(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Needless where there is one; else all that there are, are named."""
    trace = Builder(tmp_path / "a.trace", "strace")
    trace.row("mmap", BASE, PAGE, 3, 0x32, -1, 0, pid=7, result=BASE)
    trace.row("clone", 17, pid=7, result=8)
    trace.row("munmap", BASE, PAGE, pid=8, result=0)
    path = trace.end()
    assert main(["maps", path]) == 2
    output = capfd.readouterr().err
    assert "name one with --pid" in output
    assert [line.split()[0] for line in output.splitlines()[1:]] == ["7", "8"]
    assert main(["maps", path, "--pid", "9"]) == 2
    assert "there is no process 9 at end. There are:" in capfd.readouterr().err
    assert main(["maps", path, "--pid", "8", "--at", "1"]) == 2
    assert "there is no process 8 at 1. There are:\n        7  ?\n" in capfd.readouterr().err
    assert printed(capfd, path, "--pid", "7") == [f"{BASE:x}-{BASE + PAGE:x} rw-p"]
    assert printed(capfd, path, "--pid", "8") == []


def test_the_process_of_a_program(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """By the name or the path of what it runs; several are named."""
    trace = Builder(tmp_path / "a.trace")
    trace.program("/bin/first", ["first"], pid=7)
    trace.row("mmap", BASE, PAGE, 3, 0x32, -1, 0, pid=7, result=BASE)
    trace.row("clone", 17, pid=7, result=8)
    trace.program("/opt/second", ["second"], pid=8)
    path = trace.end()
    assert printed(capfd, path, "--program", "fir*") == [f"{BASE:x}-{BASE + PAGE:x} rw-p"]
    assert printed(capfd, path, "--program", "/opt/*") == []
    assert main(["maps", path, "--program", "*st", "--program", "second"]) == 2
    assert "name one with --pid" in capfd.readouterr().err
    assert main(["maps", path, "--program", "third"]) == 2
    assert "there is no process of program third at end. There are:" in capfd.readouterr().err


def test_no_process_at_all(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["maps", Builder(tmp_path / "a.trace").end()]) == 2
    assert "there is no process at end" in capfd.readouterr().err


def test_a_process_that_is_not_followed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    trace = Builder(tmp_path / "a.trace")
    trace.row("program", data=b'{"path": "/bin/old", "argv": [], "bits": 32, "followed": false}')
    assert main(["maps", trace.end()]) == 2
    assert "process 100 is not followed: a 32-bit program" in capfd.readouterr().err


def test_loss_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["maps", known(tmp_path / "a.trace", end=False)]) == 0
    assert "not ended in order" in capfd.readouterr().err
