"""Every verb that reports on `-- CMD`: the program's output and exit status are its own, the report
goes elsewhere."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from laconic.analysis.compare import compare
from laconic.analysis.schemas import SCHEMAS
from laconic.analysis.sites import sites
from laconic.sgx.meter import Counts
from laconic.strategies import NAMES
from laconic.trace.reader import TraceReader
from tests.tracer.lab import COMMAND, PATIENCE, build, environment, run_alone

#: Each verb with what it needs, OLD being a trace; the file that it writes goes to its working
#: directory.
VERBS: dict[str, tuple[str, ...]] = {
    "explain": ("explain", "mmap:2"),
    "callers": ("callers", "--no-suppressions"),
    "check": ("check", "--max-redundant", "100%"),
    "diff": ("diff", "OLD"),
    "flamegraph": ("flamegraph", "--to", "folded", "-o", "out.folded", "--force"),
    "html": ("html", "-o", "out.html", "--force"),
    "compare": ("compare",),
    "advise": ("advise",),
    "live": ("live", "--lines"),
}
#: The option that names a file for the trace.
KEEP = dict.fromkeys(VERBS, "--keep") | {"live": "-o"}
every = pytest.mark.parametrize("verb", VERBS)


def test_all_sites_and_the_rest_cost_the_total(tmp_path: Path) -> None:
    """A shell that forks and executes: whatever its pages cost belongs to some call, or to no
    call."""
    path = tmp_path / "a.trace"
    words: list[str | Path] = ["run", "--quiet", "-o", path, "--stacks", "all"]
    command = ["sh", "-c", "(ls / | sort) > /dev/null; true"]
    assert run_alone([*COMMAND, *words, "--", *command], env=environment()).returncode == 0
    found = sites(str(path), NAMES)
    compared = compare(str(path), NAMES, jobs=1)
    for name in NAMES:
        total = Counts()
        for work in (*found.sites, *found.around.values()):
            total.add(work.cost(name))
        assert total == found.total(name) == compared.strategies[name].total.low, name
    assert found.around["load"].touched_pages and found.around["fork"].cost().host_calls
    assert sum(site.touched_pages for site in found.sites) > 100


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trace of a program."""
    path = tmp_path_factory.mktemp("old") / "old.trace"
    assert (
        run_alone(
            [*COMMAND, "run", "--quiet", "-o", path, "--", "true"], env=environment()
        ).returncode
        == 0
    )
    return path


def told(
    verb: str, old: Path, place: Path, *program: str | Path, options: Sequence[str | Path] = ()
) -> subprocess.CompletedProcess[str]:
    """Runs `laconic VERB OPTIONS -- PROGRAM`."""
    words = [str(old) if word == "OLD" else word for word in VERBS[verb]]
    done = run_alone([*COMMAND, *words, *options, "--", *program], env=environment(), cwd=place)
    assert "Traceback" not in done.stderr, done.stderr
    return done


@every
def test_output_and_status_are_the_program_s(verb: str, old: Path, tmp_path: Path) -> None:
    for script, status in (
        ("echo mine", 0),
        ("echo mine; exit 3", 3),
        ("echo mine; kill -9 $$", 137),
    ):
        done = told(verb, old, tmp_path, "sh", "-c", script)
        assert (done.returncode, done.stdout) == (status, "mine\n"), done.stderr
        assert done.stderr and "\x1b" not in done.stderr


@every
def test_a_program_that_cannot_run(verb: str, old: Path, tmp_path: Path) -> None:
    """One line says why, and no file is left."""
    for name, status in (("./missing", 127), (str(tmp_path), 126)):
        done = told(verb, old, tmp_path, name)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (status, "", 1), (
            done.stderr
        )
    assert list(tmp_path.iterdir()) == []


@every
def test_json_on_standard_output_comes_after_the_program_s(
    verb: str, old: Path, tmp_path: Path
) -> None:
    """The words stay on standard error, also where the JSON goes to a file."""
    done = told(verb, old, tmp_path, "echo", "mine", options=("--json", "-"))
    assert done.returncode == 0 and done.stdout.startswith("mine\n{"), done.stdout[:80]
    assert json.loads(done.stdout.removeprefix("mine\n"))["schema"] == SCHEMAS[verb]
    to_file = told(verb, old, tmp_path, "echo", "mine", options=("--json", "out.json"))
    assert (to_file.returncode, to_file.stdout) == (0, "mine\n")
    assert json.loads((tmp_path / "out.json").read_text())["schema"] == SCHEMAS[verb]
    assert done.stderr and to_file.stderr


@every
def test_wrong_options_are_named_before_the_program_runs(
    verb: str, old: Path, tmp_path: Path
) -> None:
    done = told(verb, old, tmp_path, "touch", "ran", options=("--json", "missing/x.json"))
    assert done.returncode == 2 and "missing/x.json" in done.stderr
    if "--force" not in VERBS[verb]:
        there = tmp_path / "there.trace"
        there.touch()
        done = told(verb, old, tmp_path, "touch", "ran", options=(KEEP[verb], there))
        assert done.returncode == 2 and "exists already" in done.stderr
        assert not there.read_bytes()
        assert told(verb, old, tmp_path, "touch", "ran", options=("--force",)).returncode == 2
    if verb not in ("html", "advise"):  # they run it first, and say so afterwards
        assert not (tmp_path / "ran").exists()


@every
def test_the_trace_is_kept(verb: str, old: Path, tmp_path: Path) -> None:
    """Whole, with the program's exit status; `--force` writes it anew."""
    kept = tmp_path / "kept.trace"
    for status in (0, 3):
        options = (KEEP[verb], kept, *(("--force",) if status else ()))
        done = told(verb, old, tmp_path, "sh", "-c", f"exit {status}", options=options)
        assert done.returncode == status, done.stderr
        trace = TraceReader(str(kept))
        end = list(trace.rows())[-1]
        assert (trace.loss, end.a0) == (None, status)


@every
def test_ctrl_c(verb: str, old: Path, tmp_path: Path) -> None:
    """The terminal sends it to both: the program ends by it, and the report is of what it did until
    then."""
    words = [str(old) if word == "OLD" else word for word in VERBS[verb]]
    pid, fd = pty.fork()
    if not pid:
        os.chdir(tmp_path)
        script = "echo begun; exec sleep 30"
        env = environment(TERM="xterm", NO_COLOR="1")
        os.execve(sys.executable, [*COMMAND, *words, "--", "sh", "-c", script], env)
    seen, sent, deadline = b"", False, time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if select.select([fd], [], [], 0.1)[0]:
            try:
                seen += os.read(fd, 65536)
            except OSError:
                break
        if b"begun" in seen and not sent:
            sent = True
            os.write(fd, b"\x03")
    else:
        os.kill(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(fd)
    assert status == 130, seen
    after = seen.decode().partition("^C")[2]
    assert len(after) > 40 and "Traceback" not in after and "\x1b" not in after, seen


def test_live_s_trace_has_its_sites(tmp_path: Path) -> None:
    """What live counts, its trace tells too: the same sums, and the same function with as many
    redundant calls."""
    program = build("steady")
    words: list[str | Path] = [
        "live",
        "--lines",
        "-o",
        "a.trace",
        "--json",
        "live.json",
        "--",
        program,
        "4",
        "0",
    ]
    assert run_alone([*COMMAND, *words], env=environment(), cwd=tmp_path).returncode == 0
    live = json.loads((tmp_path / "live.json").read_text())
    done = run_alone(
        [*COMMAND, "callers", "a.trace", "--sort", "redundant", "--json", "-"],
        env=environment(),
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert (
        [
            (site["call"], site["function"], site["redundant"])
            for site in live["sites"]
            if site["redundant"]
        ]
        == [("mprotect", "again", 40)]
        == [(one["call"], one["name"], one["redundant"]) for one in found["callers"][:1]]
    )
    assert (live["calls"], live["host_calls"], live["elided"]) == (
        found["calls"], found["host_calls"], found["redundant"],
    )  # fmt: skip
    # What live hides is suppressed in callers, or at a site that costs something too.
    assert 0 < sum(live["hidden"].values()) == found["redundant"] - 40
    assert {one["reason"] for one in found["suppressed"]} <= set(live["hidden"])
    shown = run_alone([*COMMAND, "diff", "live.json", "a.trace"], env=environment(), cwd=tmp_path)
    assert shown.returncode == 0 and shown.stdout.startswith("Nothing changed: ")


def test_explain_finds_what_callers_counts(tmp_path: Path) -> None:
    """The number of the first redundant call in `callers --json -- CMD` is its number in `explain N
    -- CMD`."""
    program = build("steady")
    words: list[str | Path] = [
        "callers",
        "--sort",
        "redundant",
        "--json",
        "callers.json",
        "--",
        program,
        "1",
        "0",
    ]
    assert run_alone([*COMMAND, *words], env=environment(), cwd=tmp_path).returncode == 0
    caller, *_ = json.loads((tmp_path / "callers.json").read_text())["callers"]
    words = ["explain", str(caller["first"]), "--json", "call.json", "--", program, "1", "5"]
    done = run_alone([*COMMAND, *words], env=environment(), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (5, "round 0\n")
    assert f"event {caller['first']}: mprotect(" in done.stderr
    assert (
        "    again (steady-" in done.stderr
        and "none: the host already has this state" in done.stderr
    )
    call = json.loads((tmp_path / "call.json").read_text())
    assert (call["event"], call["changes"][0]["kinds"] if call["changes"] else []) == (
        caller["first"],
        [],
    )


class TestEventsThatDidNotCome:
    """Of a program whose calls are known: 10 mprotects a round that change nothing, 2 that do, and
    those of ld.so."""

    @pytest.mark.parametrize(
        ("event", "message"),
        [
            ("mremap:1", r"there is no 1. mremap: of N memory calls, 0 are mremap"),
            (
                "99999",
                r"there is no event 99999: the trace has those from 0 to N, N of them memory calls",
            ),
            ("@3600", r"there is no memory call at 3600 s or later: the last of N is at"),
        ],
    )
    def test_the_program_s_calls_are_counted(
        self, event: str, message: str, tmp_path: Path
    ) -> None:
        import re

        program = build("steady")
        for status in (0, 7):
            done = run_alone(
                [*COMMAND, "explain", event, "--", program, "1", str(status)], env=environment()
            )
            assert (done.returncode, done.stdout) == (status or 2, "round 0\n")
            assert re.search(message.replace("N", "[0-9]+"), done.stderr), done.stderr

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ((), "no trace and no event was named"),
            (("OLD",), "give an event, too"),
            (("7",), "give a trace, or a program after --, too"),
            (("7", "OLD"), "'7' is an event, and stands first"),
            (("OLD", "7", "8"), "'8' is one word too many"),
            (("--", "touch", "ran"), "no event was named: it stands before --"),
            (("OLD", "7", "--", "touch", "ran"), "stand before --: give an event alone"),
            (("OLD", "--", "touch", "ran"), "names no event"),
            (("frobnicate:1", "--", "touch", "ran"), "there is no memory call 'frobnicate'"),
            (("7", "--"), "no command was given"),
            (("OLD", "7", "--keep", "kept.trace"), "keeps the trace of a program"),
        ],
    )
    def test_words(self, words: tuple[str, ...], message: str, old: Path, tmp_path: Path) -> None:
        given = [str(old) if word == "OLD" else word for word in words]
        done = run_alone([*COMMAND, "explain", *given], env=environment(), cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert message in done.stderr
        assert list(tmp_path.iterdir()) == []
