"""Runs lists of calls natively and under Laconic, and compares what the program observed.

A list runs natively twice. An observation that differs between these two runs is unstable: it is
excluded, and counted by the name of its operation. All other observations must be the same under
Laconic, in every mode.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.faithful.calls import count_calls
from tests.tracer.lab import COMMAND, environment

#: The ways to run a program under Laconic, with their options.
MODES: Mapping[str, tuple[str, ...]] = {
    "laconic": (),
    "every-call": ("--strategy", "every-call"),
    "observe": ("--observe",),
    "verify": ("--verify", "call"),
}
#: Seconds for one list of 500 operations, on a slow machine.
PATIENCE = 60.0
#: The page of the program's timer, which changes at any moment.
_TICK = 0x680000000000
_MAP = re.compile(r"map ([0-9a-f]+)-([0-9a-f]+) (\S+) ([0-9a-f]+) (\S+) (\d+) *(.*?) *\| ?(.*)")


#: VmFlags that no memory call decides alone. `ac`: mprotect_fixup drops VM_ACCOUNT only from a VMA
#: without an anon_vma, and whether a VMA has one depends on how the kernel split and merged it
#: before.
UNDECIDED_FLAGS = {"ac"}


class Observation(str):
    """What one operation logged: its number, its name, and the rest, over one or several lines."""

    @property
    def name(self) -> str:
        """The operation's name."""
        words = self.split(None, 2)
        return words[1] if len(words) > 1 and words[0].isdigit() else "end"

    @property
    def number(self) -> int:
        """The operation's line in the list, or -1."""
        first = self.partition(" ")[0]
        return int(first) if first.isdigit() else -1


@dataclass(frozen=True)
class Difference:
    """The first observation of a list that differs from the native one in one mode."""

    mode: str
    native: Observation
    mediated: Observation
    #: What Laconic itself printed, if it failed.
    messages: str = ""

    def kind(self) -> tuple[str, ...]:
        """The class of this difference: the operation's name, and in what its observation
        differs."""
        name = self.native.name
        if name == self.mediated.name == "maps":
            return name, *sorted(_differing_fields(self.native, self.mediated))
        if name == self.mediated.name == "sum":
            pairs = zip(self.native.split()[2:], self.mediated.split()[2:], strict=False)
            return name, *sorted(
                {f"{_page(mine)} {_page(theirs)}" for mine, theirs in pairs if mine != theirs}
            )
        if name == self.mediated.name:
            return name, _outcome(self.native), _outcome(self.mediated)
        return name, self.mediated.name, _without_numbers(self.messages)

    def only(self) -> tuple[list[str], list[str]]:
        """The lines that are only in the native, and only in the mediated observation."""
        native, mediated = self.native.splitlines(), self.mediated.splitlines()
        mine = [line for line in native if line not in mediated]
        return mine, [line for line in mediated if line not in native]

    def __str__(self) -> str:
        native, mediated = self.only()
        lines = [f"{self.mode}: differs at line {self.native.number}"]
        lines += [f"  native:   {line}" for line in native]
        lines += [f"  mediated: {line}" for line in mediated]
        if self.messages:
            lines.append(self.messages)
        return "\n".join(lines)


def _outcome(observation: Observation) -> str:
    """Errors by number, successes without their value."""
    words = observation.split()[2:]
    if words and re.fullmatch(r"-\d+", words[0]):
        return words[0]
    signals = re.findall(r"signal \d+ code -?\d+", observation)
    return ", ".join(["success", *signals])


def _page(contents: str) -> str:
    return contents if contents in ("-", "0") else "data"


def _differing_fields(native: Observation, mediated: Observation) -> set[str]:
    """What differs between two maps: sizes, ranges, protections, files, or flags by name."""
    mine, theirs = native.splitlines(), mediated.splitlines()
    words, others = mine[0].split()[2:], theirs[0].split()[2:]
    values = zip(words[::2], words[1::2], others[1::2], strict=False)
    differing = {name for name, value, other in values if value != other}
    by_range = {tuple(line.split()[:2]): line for line in mine[1:]}
    for line in set(theirs[1:]) - set(mine[1:]):
        other = by_range.get(tuple(line.split()[:2]))
        if other is None:
            differing.add("range")
            continue
        flags = {*line.partition("|")[2].split()} ^ {*other.partition("|")[2].split()}
        differing |= flags or {"file"}
    if len(mine) != len(theirs):
        differing.add("range")
    return differing


def _without_numbers(text: str) -> str:
    return re.sub(r"[0-9a-f]{3,}", "N", text)


@dataclass
class Log:
    """The observations of one run of a list, and what Laconic printed if the run failed."""

    observations: list[Observation]
    messages: str = ""


@dataclass
class Result:
    """The outcome of comparing several lists."""

    operations: int = 0
    #: Those operations that are memory calls.
    calls: int = 0
    differences: dict[int, Difference] = field(default_factory=dict)
    #: Unstable observations by operation.
    excluded: Counter[str] = field(default_factory=Counter)


def _observations(text: str, directory: str) -> Iterator[Observation]:
    """The log by operation, without what has no meaning: inode numbers of files without a name,
    paths, the layout."""
    inodes: dict[tuple[str, str], int] = {}
    lines = iter(text.replace(directory, ".").splitlines())
    for line in lines:
        if " maps " not in line:
            yield Observation(line)
            continue
        merged: list[list[str]] = []
        for entry in lines:
            if entry == "end":
                break
            match = _MAP.fullmatch(entry)
            if match is None:
                merged.append([entry])
                continue
            start, end, prot, offset, device, inode, path, flags = match.groups()
            if int(start, 16) == _TICK:
                continue
            file = inodes.setdefault((device, inode), len(inodes)) if inode != "0" else ""
            path = re.sub(r"#\d+", "#", path)
            decided = " ".join(flag for flag in flags.split() if flag not in UNDECIDED_FLAGS)
            _add(merged, [start, end, prot, offset, f"{device} {file} {path} | {decided}"])
        yield Observation("\n".join([line, *(" ".join(entry) for entry in merged)]))


def _add(merged: list[list[str]], new: list[str]) -> None:
    """Appends a mapping, or makes the last one longer if the two differ in nothing but their
    place."""
    last = merged[-1] if merged else []
    if len(last) == 5 and last[1] == new[0] and last[2] == new[2] and last[4] == new[4]:
        # Offsets continue in a file's mappings, and are 0 in anonymous ones.
        distance = int(last[1], 16) - int(last[0], 16)
        offset = int(last[3], 16) + (distance if not new[4].startswith("00:00") else 0)
        if offset == int(new[3], 16):
            last[1] = new[1]
            return
    merged.append(new)


@contextmanager
def workplace() -> Iterator[Path]:
    """A directory that an unprivileged program can use too."""
    directory = tempfile.mkdtemp(prefix="faithful-")
    os.chmod(directory, 0o777)
    try:
        yield Path(directory)
    finally:
        shutil.rmtree(directory)


def run(
    program: Path,
    lists: Sequence[Sequence[str]],
    place: Path,
    mode: str | None = None,
    command: Sequence[str] = COMMAND,
) -> list[Log]:
    """Runs every list, natively or in one mode, in one batch; after a failure every list in a batch
    of its own."""
    logs, failure = _batch(program, lists, place, mode, command)
    if failure and len(lists) > 1:
        return [run(program, [calls], place, mode, command)[0] for calls in lists]
    return [Log(observations, failure) for observations in logs]


def _batch(
    program: Path,
    lists: Sequence[Sequence[str]],
    place: Path,
    mode: str | None,
    command: Sequence[str],
) -> tuple[list[list[Observation]], str]:
    words: list[str] = [str(program), "batch"]
    for number, calls in enumerate(lists):
        # Names of one length: the program's arguments must not move its stack.
        (place / f"{number:04}.calls").write_text("\n".join(calls) + "\n")
        words += [f"{number:04}.calls", f"{number:04}.log"]
        (place / f"{number:04}.log").unlink(missing_ok=True)
    if mode is not None:
        words = [*command, "run", "--quiet", *MODES[mode], "--", *words]
    status, messages = _execute(words, place, len(lists))
    failure = ""
    if status != 0 or "Traceback" in messages or (mode and messages):
        failure = f"exit status {status}\n{messages}"
    logs = []
    for number in range(len(lists)):
        path = place / f"{number:04}.log"
        text = path.read_text(errors="backslashreplace") if path.exists() else ""
        logs.append([*_observations(text, str(place))])
    return logs, failure


def _execute(words: Sequence[str], place: Path, count: int) -> tuple[int, str]:
    """Runs a command in a session of its own, because the program sends signals to its process
    group."""
    with (
        tempfile.TemporaryFile() as messages,
        subprocess.Popen(
            words,
            cwd=place,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=messages,
            stderr=messages,
            start_new_session=True,
        ) as process,
    ):
        try:
            status = process.wait(PATIENCE * count)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return -1, "hangs"
        finally:
            _end_group(process.pid)
        messages.seek(0)
        return status, messages.read().decode(errors="backslashreplace")


def _end_group(group: int) -> None:
    """If Laconic was killed, so were the programs that it traced; a program that was left over must
    not stay."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass


def unstable(native: Log, again: Log) -> Counter[str]:
    """The observations that differ between two native runs, by operation."""
    if len(native.observations) != len(again.observations):
        return Counter(["whole list"])
    pairs = zip(native.observations, again.observations, strict=True)
    return Counter(mine.name for mine, other in pairs if mine != other)


def first_difference(
    native: Log, again: Log, mediated: Log, mode: str, ignored: Collection[tuple[str, ...]] = ()
) -> Difference | None:
    """The first stable observation that is not the same under Laconic, unless it is of an ignored
    kind."""
    end = Observation("")
    if len(native.observations) != len(again.observations):
        return None
    for number, observation in enumerate(native.observations):
        seen = mediated.observations[number] if number < len(mediated.observations) else end
        if seen == observation or observation != again.observations[number]:
            continue
        difference = Difference(mode, observation, seen, mediated.messages)
        if difference.kind() not in ignored:
            return difference
        if not seen:
            return None
    if mediated.messages or len(mediated.observations) > len(native.observations):
        difference = Difference(mode, end, end, mediated.messages or "more observations")
        return None if difference.kind() in ignored else difference
    return None


def compare(
    program: Path,
    lists: Sequence[Sequence[str]],
    modes: Sequence[str] = tuple(MODES),
    ignored: Collection[tuple[str, ...]] = (),
    command: Sequence[str] = COMMAND,
) -> Result:
    """Compares lists in some modes; the differences are numbered as the lists are. `command` is
    Laconic's."""
    result = Result(sum(map(len, lists)), sum(map(count_calls, lists)))
    with workplace() as place:
        native = run(program, lists, place)
        again = run(program, lists, place)
        for mode in modes:
            mediated = run(program, lists, place, mode, command)
            for number in range(len(lists)):
                difference = first_difference(
                    native[number], again[number], mediated[number], mode, ignored
                )
                if difference is not None:
                    result.differences.setdefault(number, difference)
    for mine, other in zip(native, again, strict=True):
        result.excluded += unstable(mine, other)
    return result
