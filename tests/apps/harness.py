"""Run a workload natively or under a wrapper, in a fresh directory, and make sure that nothing
stays behind.

As a program it lists the workloads and runs them natively: `python tests/apps/harness.py [--list]
[NAME...]`.
"""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.apps.workloads import SEARCH, WORKLOADS, Workload

PROGRAMS = Path(__file__).parent / "programs"
SOURCES = Path(__file__).resolve().parents[2] / "src"


@dataclass(frozen=True)
class Outcome:
    """What a run left to compare; its outputs are normalised."""

    status: int
    stdout: str
    stderr: str
    seconds: float

    def visible(self) -> tuple[int, str, str]:
        """Return what two equal runs agree in."""
        return self.status, self.stdout, self.stderr


class Misbehaved(AssertionError):
    """A run that did not end, or did not end everything that it had started."""


class Place:
    """The directories of one workload: what was built once, and the copy that a run works in."""

    def __init__(self, workload: Workload, top: Path) -> None:
        """Copy the programs below top and run the workload's preparations there."""
        self.workload = workload
        self.top = top
        self.built = top / "built"
        self.work = top / "work"
        shutil.copytree(PROGRAMS, self.built)
        for command in workload.prepare:
            subprocess.run(
                command, cwd=self.built, env=environment(), stdin=subprocess.DEVNULL, check=True
            )

    def run(self, wrapper: Sequence[str] = ()) -> Outcome:
        """Run the command in a fresh copy, behind the words of a wrapper if there are any."""
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.built, self.work)
        if self.workload.prefix():
            shutil.chown(self.work, self.workload.user)
        port = str(free_port())
        command = [
            *wrapper,
            *self.workload.prefix(),
            *(word.format(port=port) for word in self.workload.command),
        ]
        output, errors = self.top / "stdout", self.top / "stderr"
        started = time.monotonic()
        with output.open("wb") as stdout, errors.open("wb") as stderr:
            process = subprocess.Popen(
                command,
                cwd=self.work,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
            try:
                status: int | None = process.wait(self.workload.limit)
            except subprocess.TimeoutExpired:
                status = None
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        seconds = time.monotonic() - started
        left = self.sweep(0.0 if status is None else 3.0)
        seen = [
            self.workload.normalise(path.read_text(errors="backslashreplace"))
            for path in (output, errors)
        ]
        outcome = Outcome(-1 if status is None else status, seen[0], seen[1], seconds)
        if status is None:
            raise Misbehaved(command, f"did not end in {self.workload.limit} seconds", outcome)
        if left:
            raise Misbehaved(command, f"left processes behind: {', '.join(left)}", outcome)
        return outcome

    def sweep(self, grace: float) -> list[str]:
        """Kill the processes that still work in this place after the grace time, and name them."""
        deadline = time.monotonic() + grace
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.02)
        left = []
        for pid in self.processes():
            try:
                left.append(f"{pid} {Path(f'/proc/{pid}/comm').read_text().strip()}")
                os.kill(pid, signal.SIGKILL)
            except (FileNotFoundError, ProcessLookupError):
                continue
        return left

    def processes(self) -> list[int]:
        """Return the processes whose working directory is in this place: they are ours, whatever
        their parent."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    directory = (entry / "cwd").readlink()
                except OSError:
                    continue
                if directory.is_relative_to(self.top):
                    found.append(int(entry.name))
        return found


@contextmanager
def place(workload: Workload) -> Iterator[Place]:
    """Build a workload in a temporary directory that other users can enter, and remove it at the
    end."""
    with tempfile.TemporaryDirectory(prefix="laconic-") as name:
        top = Path(name).resolve()
        top.chmod(0o755)
        yield Place(workload, top)


def environment() -> dict[str, str]:
    """Return the environment of every run: this one, with a fixed locale and what finds servers and
    Laconic."""
    result = dict(os.environ)
    result.update(LC_ALL="C", TZ="UTC", PATH=SEARCH)
    result["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(SOURCES), os.environ.get("PYTHONPATH")])
    )
    return result


def free_port() -> int:
    """Return a port of the loopback interface that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def main() -> int:
    """Run workloads natively, twice each, and report their time and whether both runs agree."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="workloads to run (all of them)")
    parser.add_argument(
        "--list", action="store_true", help="only list the workloads and what they lack"
    )
    options = parser.parse_args()
    chosen = [
        workload for workload in WORKLOADS if not options.names or workload.name in options.names
    ]
    differing = 0
    for workload in chosen:
        label = f"{workload.name:20} {'slow' if workload.slow else '':5}"
        if options.list or workload.missing():
            print(label, workload.missing())
            continue
        with place(workload) as here:
            first, second = here.run(), here.run()
        same = first.visible() == second.visible()
        differing += not same
        note = "" if same else f"DIFFERENT: {first} {second}"
        print(
            label,
            f"{first.seconds:6.2f} s, {second.seconds:6.2f} s, status {first.status:3} {note}",
            flush=True,
        )
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
