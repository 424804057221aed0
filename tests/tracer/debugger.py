"""gdb as a second opinion: it stops a process again and again, and says what it takes the stacks to
be.

While gdb holds the process, whoever iterates may read the same process's memory.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import pytest

from laconic.stacks.modules import Modules
from laconic.stacks.unwind import Space

#: Runs inside gdb. After each stop it writes a line of JSON and waits for an answer.
_SCRIPT = r"""
import gdb, json, os, random
into, out = os.fdopen(int(os.environ["LACONIC_OUT"]), "w"), os.fdopen(int(os.environ["LACONIC_IN"]))
choose = random.Random(int(os.environ["LACONIC_SEED"]))
calls, most = os.environ["LACONIC_CALLS"], int(os.environ["LACONIC_EVERY"])
for line in ("pagination off", "confirm off", "debuginfod enabled off", "backtrace past-main on",
             "backtrace past-entry on", "backtrace limit 1000", "print thread-events off"):
    try:
        gdb.execute("set " + line, to_string=True)
    except gdb.error:
        pass
gdb.execute("handle all nostop noprint pass", to_string=True)
gdb.execute("handle SIGTRAP stop", to_string=True)
NAMES = "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp".split()

def sample(thread):
    thread.switch()
    frame = gdb.newest_frame()
    words = [int(frame.read_register(name)) & (1 << 64) - 1 for name in NAMES]
    found, why = [], 0
    while frame is not None:
        # Those two have no frame on the stack: gdb has them from DWARF.
        if frame.type() not in (gdb.INLINE_FRAME, gdb.TAILCALL_FRAME):
            found.append(frame.pc())
        why = frame.unwind_stop_reason()
        frame = frame.older()
    into.write(json.dumps({"tid": thread.ptid[1], "words": words + [0] * 7, "frames": found, "why": why}) + "\n")
    into.flush()
    return out.readline().strip() == "more"

def run():
    number = 0
    if calls:
        text = gdb.execute("catch syscall " + calls, to_string=True)
        number = int(text.split()[1])
    while True:
        if number:
            gdb.execute("ignore %d %d" % (number, choose.randrange(most)), to_string=True)
        gdb.execute("continue" if number else "stepi %d" % (1 + choose.randrange(most)), to_string=True)
        stopped = gdb.selected_thread()
        if stopped is None:
            return
        others = [thread for thread in gdb.selected_inferior().threads() if thread.num != stopped.num]
        for thread in [stopped] + choose.sample(others, min(len(others), 3)):
            if not sample(thread):
                return
        stopped.switch()

try:
    run()
except Exception as error:  # the process has ended
    into.write(json.dumps({"error": str(error)}) + "\n")
    into.flush()
gdb.execute("kill")
"""  # noqa: E501


class Sample(NamedTuple):
    """One thread at one stop: its registers in PTRACE_GETREGS's order, and gdb's frames, innermost
    first."""

    tid: int
    words: list[int]
    frames: list[int]
    why: int


def sampled(
    pid: int, count: int, calls: Sequence[str], every: int, seed: int = 1
) -> Iterator[Sample]:
    """Stops a process at up to `count` of the named system calls (of none: at instructions), the
    others' threads too, skipping up to `every` between. The process is killed at the end. Skips the
    test where there is no gdb."""
    gdb = shutil.which("gdb")
    if gdb is None:
        pytest.skip("gdb is not installed")
    their_in, our_out = os.pipe()
    our_in, their_out = os.pipe()
    environment = dict(os.environ, LC_ALL="C", LACONIC_SEED=str(seed), LACONIC_EVERY=str(every))
    environment |= {
        "LACONIC_IN": str(their_in),
        "LACONIC_OUT": str(their_out),
        "LACONIC_CALLS": " ".join(calls),
    }
    with tempfile.TemporaryDirectory() as place:
        script = Path(place, "stops.py")
        script.write_text(_SCRIPT)
        command = [gdb, "-q", "-nx", "-batch", "-p", str(pid), "-x", str(script)]
        seen = 0
        with (
            os.fdopen(our_in) as answers,
            os.fdopen(our_out, "w") as more,
            Path(place, "log").open("w+") as log,
        ):
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                pass_fds=(their_in, their_out),
            )  # fmt: skip
            os.close(their_in)
            os.close(their_out)
            for line in answers:
                about = json.loads(line)
                if "error" in about:
                    break
                seen += 1
                yield Sample(**about)
                more.write("more\n" if seen < count else "enough\n")
                more.flush()
                if seen >= count:
                    break
            process.wait(60)
            log.seek(0)
            assert seen, log.read()


class Comparison:
    """How many stacks were the same, of those that call-frame information leads through."""

    def __init__(self, pid: int, modules: Modules | None = None) -> None:
        self.space = Space(pid, modules or Modules())
        self.stacks = self.same = self.frames = self.guessed = 0
        self.differences: list[str] = []

    def compare(self, sample: Sample) -> None:
        """Unwinds the same stack, and compares up to the first frame from which no CFI leads on."""
        self.space.invalidate()
        walked = self.space.walk(sample.tid, sample.words)
        certain = next(
            (at + 1 for at, number in enumerate(walked) if not self.space.covered(number)), None
        )
        ours = [self.space.addresses(number) for number in walked[:certain]]
        theirs = sample.frames[:certain]
        self.guessed += certain is not None
        # Where a stack is broken gdb shows what it found there, and ends: an address that is of no
        # code.
        if certain is None and len(theirs) == len(ours) + 1 and not self.space.is_code(theirs[-1]):
            del theirs[-1]
        self.stacks += 1
        self.frames += len(ours)
        if len(ours) == len(theirs) and all(
            there in places for there, places in zip(theirs, ours, strict=True)
        ):
            self.same += 1
        elif len(self.differences) < 5:
            lines = [
                f"{' '.join(map(hex, a or [0]))} {b or 0:#x}" for a, b in zip_longest(ours, theirs)
            ]
            self.differences.append(
                f"thread {sample.tid}, reason {sample.why}, ours and gdb's:\n" + "\n".join(lines)
            )

    @property
    def share(self) -> float:
        """The part of all stacks that were the same."""
        return self.same / self.stacks if self.stacks else 0.0

    def __str__(self) -> str:
        return (
            f"{self.same} of {self.stacks} stacks the same ({100 * self.share:.1f} %), "
            f"{self.frames} frames compared, "
            f"{self.guessed} stacks compared up to a frame without call-frame information"
        )
