"""The command line: bad input, help, and outputs that cannot be written. Never a traceback."""

from __future__ import annotations

import doctest
import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from laconic import __version__
from laconic.commands import VERBS, build, installed_build, manpage, options
from laconic.trace import nextsteps, selection
from tests.helpers.commandline import laconic
from tests.tracer.lab import COMMAND, environment, run_alone


def executable(path: Path, content: bytes, mode: int = 0o755) -> Path:
    """Writes a file of that mode."""
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "VERB"),
        (["frobnicate"], "'frobnicate'"),
        (["--frobnicate"], "VERB"),
        (["comapre", "a.trace"], "there is no verb 'comapre'; did you mean 'compare'?"),
        (["help", "flame"], "there is no verb 'flame'; did you mean 'flamegraph'?"),
        (["help", "run", "--man"], "leave out 'run'"),
        (["html", "--outptu", "a.html", "a.trace"], "did you mean '--output'?"),
        (["callers", "--limmit=5", "a.trace"], "no option '--limmit'; did you mean '--limit'?"),
        (["run", "--verfy", "exit", "--", "true"], "no option '--verfy'; did you mean '--verify'"),
        (["run"], "no command was given"),
        (["run", "--"], "no command was given"),
        (["run", "--quiet"], "no command was given"),
        (["run", "--frobnicate", "true"], "--frobnicate"),
        (["run", "-x"], "-x"),
        (["run", "--quiet", "--frobnicate", "--", "true"], "--frobnicate"),
        (["run", "--verify", "sometimes", "true"], "'sometimes'"),
        (["run", "--verify"], "--verify"),
        (["run", "--strategy", "mute", "true"], "'mute'"),
        (["run", "--json"], "--json"),
        (["run", "--observe", "--strategy", "every-call", "true"], "--observe"),
        (["run", "--force", "true"], "-o FILE"),
        (["run", "--redact", "true"], "-o FILE"),
        (["run", "-o"], "-o"),
        (["doctor", "--frobnicate"], "--frobnicate"),
        (["doctor", "true"], "true"),
    ],
)
def test_a_wrong_option_is_named(words: list[str], message: str) -> None:
    """Status 2, and what was wrong is in the message; nothing goes to standard output."""
    done = laconic(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_arguments_after_the_program_are_the_program_s(tmp_path: Path) -> None:
    """Options after the program's name are not Laconic's; `--` after it neither."""
    done = laconic("run", "--quiet", "echo", "--json", "--verify", "--", "-x")
    assert (done.returncode, done.stdout, done.stderr) == (0, "--json --verify -- -x\n", "")
    odd = executable(tmp_path / "--odd", b"#!/bin/sh\necho odd\n")
    done = laconic(
        "run", "--quiet", "--", odd.name, env=environment(PATH=f"{tmp_path}:{os.environ['PATH']}")
    )
    assert (done.returncode, done.stdout) == (0, "odd\n")


def imports(*args: str) -> set[str]:
    """Return the modules that a command imports."""
    command = [sys.executable, "-X", "importtime", "-m", "laconic", *args]
    done = run_alone(command, env=environment())
    return {
        line.rpartition("|")[2].strip()
        for line in done.stderr.splitlines()
        if "import time:" in line
    }


class TestProgramsThatCannotRun:
    """A shell's statuses: 127 for what is not there, 126 for what cannot be executed."""

    @pytest.mark.parametrize(
        "name", ["./missing", "missing-everywhere", "/missing/program", "", "a\udcffb", "true "]
    )
    def test_missing(self, name: str, tmp_path: Path) -> None:
        done = laconic("run", "--", name, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (127, "")
        assert done.stderr.startswith("laconic: ")

    def test_a_file_is_not_a_directory_on_the_way(self, tmp_path: Path) -> None:
        executable(tmp_path / "file", b"")
        # What sh says too: ENOTDIR.
        assert laconic("run", "--", tmp_path / "file" / "program").returncode in (126, 127)

    def test_a_directory(self, tmp_path: Path) -> None:
        done = laconic("run", "--", tmp_path)
        assert done.returncode == 126
        assert "directory" in done.stderr

    def test_a_file_without_the_permission(self, tmp_path: Path) -> None:
        file = executable(tmp_path / "unexecutable", b"#!/bin/sh\necho ran\n", 0o644)
        done = laconic("run", "--", file)
        assert (done.returncode, done.stdout) == (126, "")
        assert "executed" in done.stderr

    def test_a_file_without_the_permission_found_through_path(self, tmp_path: Path) -> None:
        """A shell looks further, and says 126 where it finds no other."""
        file = executable(tmp_path / "unexecutable", b"#!/bin/sh\necho ran\n", 0o644)
        path = environment(PATH=f"{tmp_path}:{os.environ['PATH']}")
        done = laconic("run", "--", file.name, env=path)
        assert (done.returncode, done.stdout) == (126, "")
        (tmp_path / "more").mkdir()
        executable(tmp_path / "more" / file.name, b"#!/bin/sh\necho the other\n")
        done = laconic(
            "run",
            "--",
            file.name,
            env=environment(PATH=f"{tmp_path}:{tmp_path}/more:{os.environ['PATH']}"),
        )
        assert (done.returncode, done.stdout) == (0, "the other\n")

    def test_a_script_without_an_interpreter_line_runs_by_sh(self, tmp_path: Path) -> None:
        script = executable(tmp_path / "script", b'echo "$0:$1:$2"; exit 5\n')
        done = laconic("run", "--", script, "a b", "c")
        assert (done.returncode, done.stdout) == (5, f"{script}:a b:c\n")

    def test_an_empty_file_runs_by_sh(self, tmp_path: Path) -> None:
        assert laconic("run", "--", executable(tmp_path / "empty", b"")).returncode == 0

    def test_a_script_whose_interpreter_is_missing(self, tmp_path: Path) -> None:
        done = laconic("run", "--", executable(tmp_path / "script", b"#!/missing/interpreter\n"))
        assert done.returncode in (126, 127)
        assert "interpreter" in done.stderr

    @pytest.mark.parametrize(
        "content",
        [b"\x7fELF", b"\x7fELF\x02\x01\x01" + bytes(200), b"\x7fELF garbage\ntouch ran\n"],
    )
    def test_a_broken_elf_file(self, content: bytes, tmp_path: Path) -> None:
        """It is not a script for sh, whatever its text says."""
        done = laconic("run", "--", executable(tmp_path / "broken", content), cwd=tmp_path)
        assert done.returncode == 126
        assert not (tmp_path / "ran").exists()
        assert "ENOEXEC" in done.stderr


class TestOutputs:
    """Where the figures cannot be written, the program's own status survives."""

    def test_a_path_that_cannot_be_written_is_found_before_the_program_starts(
        self, tmp_path: Path
    ) -> None:
        for path in (tmp_path / "missing" / "figures.json", tmp_path):
            done = laconic("run", "--json", path, "--", "touch", "started", cwd=tmp_path)
            assert done.returncode == 2
            assert str(path) in done.stderr
            assert not (tmp_path / "started").exists()

    def test_a_program_that_cannot_run_leaves_no_half_written_figures(self, tmp_path: Path) -> None:
        path = tmp_path / "figures.json"
        assert laconic("run", "--json", path, "--", "./missing", cwd=tmp_path).returncode == 127
        assert not path.exists() or path.read_text() == ""

    @pytest.mark.parametrize(
        ("options", "redirect"),
        [
            (("--json", "/dev/full"), ""),
            (("--json", "/dev/full"), "2>/dev/full"),
            (("--json", "/dev/full", "--quiet"), "2>&-"),
            ((), "2>/dev/full"),
            ((), "2>&-"),
            ((), "<&- >&- 2>&-"),
            (("--json", "-"), ">/dev/full"),
            (("--quiet",), "<&- >&- 2>&-"),
        ],
    )
    @pytest.mark.parametrize("status", [0, 3])
    def test_the_program_s_status_survives(
        self, options: Sequence[str], redirect: str, status: int
    ) -> None:
        done = laconic("run", *options, "--", "sh", "-c", f"exit {status}", redirect=redirect)
        assert done.returncode == status
        if options and not redirect and "--quiet" not in options:
            assert "/dev/full" in done.stderr, "nobody learns that the figures are lost"

    def test_figures_on_a_standard_output_that_is_closed(self) -> None:
        """Found before the program starts, or the program's status: nothing else."""
        assert laconic(
            "run", "--json", "-", "--", "sh", "-c", "exit 3", redirect=">&-"
        ).returncode in (2, 3)

    def test_messages_go_nowhere_where_standard_error_is_closed(self) -> None:
        """Not to standard output, which is the program's."""
        done = laconic("run", "--", "./missing", redirect="2>&-")
        assert (done.returncode, done.stdout) == (127, "")
        done = laconic("run", "--frobnicate", redirect="2>&-")
        assert (done.returncode, done.stdout) == (2, "")

    def test_a_reader_that_went_away(self) -> None:
        done = laconic("run", "--", "sh", "-c", "exit 3", redirect="2>&1 >/dev/null | :; echo $?")
        assert done.stderr == ""

    def test_descriptors_that_are_closed_stay_closed_in_the_program(self, tmp_path: Path) -> None:
        script = f"ls -l /proc/self/fd >{tmp_path}/seen"
        laconic(
            "run",
            "--json",
            tmp_path / "figures.json",
            "--",
            "sh",
            "-c",
            script,
            redirect="<&- 2>&-",
        )
        # The file of the shell's own redirection and no other, and no pipe.
        seen = (tmp_path / "seen").read_text()
        assert (seen.count(str(tmp_path)), seen.count("pipe:")) == (1, 0), seen
        assert json.loads((tmp_path / "figures.json").read_text())["exit_status"] == 0

    def test_figures_on_standard_output(self) -> None:
        done = laconic("run", "--json", "-", "--quiet", "--", "sh", "-c", "echo first; exit 3")
        first, _, rest = done.stdout.partition("\n")
        assert (done.returncode, first, done.stderr) == (3, "first", "")
        assert json.loads(rest)["exit_status"] == 3
        done = laconic("doctor", "--json", "-")
        assert json.loads(done.stdout)["findings"]

    def test_an_argument_that_is_no_text(self, tmp_path: Path) -> None:
        done = laconic(
            "run", "--json", tmp_path / "f\udcff", "--", "printf", "%s", "a\udcffb", cwd=tmp_path
        )
        assert (done.returncode, done.stdout) == (0, "a\\xffb")
        assert json.loads((tmp_path / "f\udcff").read_text())["command"] == [
            "printf",
            "%s",
            "a\udcffb",
        ]

    def test_quiet_prints_nothing(self) -> None:
        done = laconic("run", "--quiet", "--verify", "exit", "--", "sh", "-c", "exit 3")
        assert (done.returncode, done.stdout, done.stderr) == (3, "", "")

    @pytest.mark.parametrize("columns", ["20", "80", "400"])
    def test_the_table_in_a_pipe(self, columns: str) -> None:
        """80 columns and no escape codes, whatever the environment says of colours and
        terminals."""
        env = environment(
            COLUMNS=columns, FORCE_COLOR="1", CLICOLOR_FORCE="1", TERM="xterm-256color"
        )
        done = laconic(
            "run", "--verify", "exit", "--", sys.executable, "-c", "import json, threading", env=env
        )
        assert done.returncode == 0
        assert done.stderr.startswith("laconic: ")
        assert "verify (exit): 1 check, 0 mismatches" in done.stderr
        assert all(len(line) <= 80 for line in done.stderr.splitlines()), done.stderr
        assert "\x1b" not in done.stderr


def test_doctests() -> None:
    for module in (options, manpage, nextsteps, selection):
        assert doctest.testmod(module).failed == 0 < doctest.testmod(module).attempted


class TestCompletion:
    """The scripts for shells."""

    @pytest.mark.parametrize(
        ("words", "completed"),
        [
            (("laconic", "fla"), {"flamegraph"}),
            (("laconic", "callers", "--lim"), {"--limit"}),
            (("laconic", "flamegraph", "--to", "s"), {"speedscope", "svg"}),
            (("laconic", "html", "-o", "rep"), {"report.html"}),
            (("laconic", "info", "a.t"), {"a.trace"}),
        ],
    )
    def test_bash(self, words: tuple[str, ...], completed: set[str], tmp_path: Path) -> None:
        (tmp_path / "a.trace").touch()
        (tmp_path / "report.html").touch()
        script = laconic("completion", "bash").stdout
        script += f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; _shtab_laconic\n"
        script += 'printf "%s\\n" "${COMPREPLY[@]}"\n'
        done = subprocess.run(
            ["bash"], input=script, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert set(done.stdout.split()) == completed

    @pytest.mark.parametrize("shell", ["zsh", "fish"])
    def test_other_shells(self, shell: str) -> None:
        """Every verb is there, and the shell, if it is installed, can parse the script."""
        script = laconic("completion", shell).stdout
        for verb in VERBS:
            assert verb in script
        if shutil.which(shell):
            subprocess.run([shell, "-n"], input=script, text=True, check=True)


class TestHelp:
    """What a person reads first."""

    @pytest.mark.parametrize("words", [(), *((verb,) for verb in VERBS)])
    def test_help_fits_80_columns_and_shows_an_example(self, words: tuple[str, ...]) -> None:
        done = laconic(*words, "--help", env=environment(COLUMNS="80"))
        assert (done.returncode, done.stderr) == (0, "")
        assert [line for line in done.stdout.splitlines() if len(line) > 80] == []
        assert f"  laconic {words[0] if words else 'run'} " in done.stdout
        assert "\x1b" not in done.stdout

    def test_help_of_a_verb(self) -> None:
        """`help VERB` is `VERB --help`, and `help` alone is `--help`; no verb at all shows it too,
        as an error."""
        assert laconic("help", "callers").stdout == laconic("callers", "--help").stdout
        listed = laconic("--help").stdout
        assert laconic("help").stdout == listed
        done = laconic()
        assert (done.returncode, done.stdout, done.stderr) == (2, "", listed)

    def test_verbs_are_listed_by_question(self) -> None:
        sections = laconic("--help").stdout.split("\n\n")
        found = next(part for part in sections if part.startswith("Which calls cost most?\n"))
        assert [line.split()[0] for line in found.splitlines()[1:]] == [
            "callers",
            "html",
            "flamegraph",
            "explain",
        ]

    def test_every_verb_and_exit_code_is_there(self) -> None:
        text = laconic("--help").stdout
        for word in (*VERBS, "70", "71", "126", "127"):
            assert word in text

    def test_a_run_imports_no_more_than_it_needs(self) -> None:
        imported = imports("run", "--", "true")
        assert "laconic.report.run" in imported
        unneeded = {"rich", "pyarrow", "numpy", "subprocess", "decimal", "hashlib"}
        assert not unneeded & {name.split(".")[0] for name in imported}

    def test_help_imports_no_more_than_it_needs(self) -> None:
        imported = imports("--help")
        assert "laconic.commands" in imported
        for name in imported:
            assert name.split(".")[0] not in {
                "rich",
                "ctypes",
                "json",
                "subprocess",
                "pyarrow",
                "numpy",
            }, name
            assert name.rpartition(".")[0] not in {
                "laconic.tracer",
                "laconic.memory",
                "laconic.report",
            }, name
            assert not name.startswith(("laconic.linux", "laconic.sgx")), name

    def test_help_is_quick(self) -> None:
        """At most five times the processor time that Python takes to do nothing, the best of
        several, alternating: waiting for a busy machine does not count."""
        nothing: list[float] = []
        helping: list[float] = []
        for _ in range(7):
            for command, times in (
                ((sys.executable, "-c", "pass"), nothing),
                ((*COMMAND, "--help"), helping),
            ):
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                subprocess.run(command, env=environment(), stdout=subprocess.DEVNULL, check=True)
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert min(helping) < 5 * min(nothing)

    def test_the_manual_page_has_every_option(self) -> None:
        """And groff, where it is installed, finds no fault with it."""
        page = laconic("help", "--man").stdout
        _, verbs = build(VERBS)
        for verb, parser in verbs.items():
            _, heading, section = page.partition(f"\n.SH LACONIC {verb.upper()}\n")
            section = section.partition("\n.SH ")[0]
            assert heading
            for action in parser._actions:
                for name in action.option_strings:
                    assert "\\fB" + name.replace("-", "\\-") + "\\fR" in section, (verb, name)
        if shutil.which("groff"):
            done = subprocess.run(
                ["groff", "-man", "-Tutf8", "-ww"], input=page, capture_output=True, text=True
            )
            assert (done.returncode, done.stderr) == (0, "")
            assert "laconic callers a.trace" in done.stdout

    def test_version(self) -> None:
        done = laconic("--version")
        assert done.returncode == 0
        assert done.stdout == f"laconic {__version__} ({installed_build()})\n"
        assert installed_build() in ("compiled", "pure Python")
