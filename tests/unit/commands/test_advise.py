"""laconic advise as a command: outputs, exit codes, bad input. Never a traceback."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from laconic.analysis.advise.watch import MIB
from laconic.sgx.costs import COSTED
from tests.helpers.adviseprograms import RW, Program
from tests.helpers.commandline import laconic
from tests.helpers.traces import BASE, Builder, small


def test_a_trace(tmp_path: Path) -> None:
    """The advice is on standard output, a line of the manifest by itself; the JSON has the same."""
    path, out = small(tmp_path / "a.trace"), tmp_path / "advice.json"
    done = laconic("advise", path, "--json", out)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    found = json.loads(out.read_text())
    assert {each["line"] for each in found["advice"]} <= set(lines)
    # 64 GiB reserved, and half of that a power of two below.
    assert 'sgx.enclave_size = "128G"' in lines
    assert "sgx.use_exinfo = true" in lines
    assert all(len(line) <= 80 for line in lines)
    assert (found["trace"], found["command"], found["exit_status"]) == (path, None, None)
    options = [each["option"] for each in found["advice"]]
    assert options[:3] == ["sgx.enclave_size", "sgx.edmm_enable", "sgx.max_threads"]
    assert found["profile"]["name"] == "published"
    assert set(found["strategies"]) >= {"every-call", "laconic"}
    for strategy in found["strategies"].values():
        assert 0 <= strategy["cycles"]["low"] <= strategy["cycles"]["high"]


def test_json_on_standard_output_is_alone_there(tmp_path: Path) -> None:
    done = laconic("advise", "--json", "-", small(tmp_path / "a.trace"))
    assert done.returncode == 0
    assert json.loads(done.stdout)["schema"] == 1


def test_costs_are_those_of_compare(tmp_path: Path) -> None:
    """The same trace, the same profile, the same figures."""
    path, out, other = small(tmp_path / "a.trace"), tmp_path / "a.json", tmp_path / "b.json"
    assert laconic("advise", path, "--costs", "pie-j5005", "--json", out).returncode == 0
    assert laconic("compare", path, "--costs", "pie-j5005", "--json", other).returncode == 0
    ours, theirs = (json.loads(each.read_text())["strategies"] for each in (out, other))
    for name in ("every-call", "laconic"):
        assert ours[name]["cycles"] == pytest.approx(theirs[name]["cycles"])
        assert ours[name]["host_calls"]["low"] == theirs[name]["counts"]["host_calls"]


def test_callers_and_html_name_what_advise_would_change(tmp_path: Path) -> None:
    """From the same replay: settings, and EDMM if the enclave is better without; else nothing."""
    trace = Program(tmp_path)
    for _ in range(200):
        trace.mmap(BASE, 16 * MIB, RW)
        trace.call("munmap", BASE, 16 * MIB)
    path, page = trace.touched(), tmp_path / "page.html"
    done = laconic("callers", path)
    assert done.stdout.endswith(f"\nnext: laconic advise {path}\n  (sgx.edmm_enable = false)\n"), (
        done.stdout
    )
    assert "next: laconic advise" not in laconic("callers", path, "--call", "mmap").stdout
    assert laconic("html", path, "-o", page).returncode == 0
    assert "<code>sgx.edmm_enable = false</code>" in page.read_text()
    few = small(tmp_path / "few.trace")
    assert "sgx.edmm_enable = true" in laconic("advise", few).stdout
    assert "next: laconic advise" not in laconic("callers", few).stdout


def test_help() -> None:
    done = laconic("advise", "--help")
    assert done.returncode == 0
    assert "examples:" in done.stdout and "exit codes:" in done.stdout and "--try" in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    assert "  advise " in laconic("--help").stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no trace was named"),
        (["a.trace", "b.trace"], "more than one trace"),
        (["--"], "no command was given"),
        (["a.trace", "--", "true"], "'a.trace' stands before --"),
        (["--try", "a.trace"], "give it after --, not a file"),
        (["--try"], "give it after --"),
        (["--frobnicate", "a.trace"], "--frobnicate"),
        (["missing.trace"], "missing.trace"),
        (["--costs", "missing", "a.trace"], "missing: there is no such cost profile"),
        (["--costs"], "--costs"),
    ],
)
def test_bad_input_is_named(words: list[str], message: str, tmp_path: Path) -> None:
    done = laconic("advise", *words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_a_cost_file_with_a_negative_number(tmp_path: Path) -> None:
    table = "".join(f'[{name}]\nlow = 1\nhigh = 2\nsource = ""\nmachine = ""\n' for name in COSTED)
    (tmp_path / "mine.toml").write_text(table)
    path = small(tmp_path / "a.trace")
    assert "Profile: mine" in " ".join(
        laconic("advise", path, "--costs", tmp_path / "mine.toml").stdout.split()
    )
    (tmp_path / "mine.toml").write_text(table.replace("low = 1", "low = -1", 1))
    done = laconic("advise", path, "--costs", tmp_path / "mine.toml")
    assert (done.returncode, done.stdout) == (2, "")
    assert "is negative" in done.stderr


def test_a_file_that_is_no_trace(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("hello\n")
    for name in ("empty", "text"):
        done = laconic("advise", tmp_path / name)
        assert (done.returncode, done.stdout) == (2, "")
        assert name in done.stderr


def test_a_trace_with_nothing_in_it(tmp_path: Path) -> None:
    done = laconic("advise", Builder(tmp_path / "a.trace").end())
    assert (done.returncode, done.stderr) == (0, "")
    assert "nothing to advise" in " ".join(done.stdout.split())


def test_a_trace_cut_short(tmp_path: Path) -> None:
    """As far as it goes, and what is missing is said."""
    trace = Builder(tmp_path / "a.trace")
    trace.program("/bin/prog", ["prog"])
    trace.row("mmap", 0, 300 << 20, 3, 0x22, -1, 0, result=BASE, state=4)
    done = laconic("advise", trace.cut())
    assert done.returncode == 0
    assert 'sgx.enclave_size = "512M"' in done.stdout
    assert "is not complete" in done.stderr and "not ended in order" in done.stderr


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    path = small(tmp_path / "a.trace")
    done = laconic("advise", path, redirect="> /dev/full")
    assert done.returncode == 2 and "standard output cannot be written" in done.stderr
    assert laconic("advise", path, redirect="| head -n 1").returncode == 0
    done = laconic("advise", path, "--json", tmp_path / "no" / "place")
    assert done.returncode == 2 and "cannot be written" in done.stderr


class TestCommands:
    def test_the_program_is_its_own(self) -> None:
        """Its output and exit status stay as they are; the advice goes to standard error, and says
        the status."""
        done = laconic("advise", "--", "sh", "-c", "echo out; exit 3")
        assert (done.returncode, done.stdout) == (3, "out\n")
        assert "sgx.max_threads = 4" in done.stderr.splitlines()
        assert "exit status 3" in done.stderr

    def test_options_after_the_program_are_the_program_s(self, tmp_path: Path) -> None:
        out = tmp_path / "a.json"
        done = laconic("advise", "--json", out, "--", "echo", "--try", "--", "--json")
        assert (done.returncode, done.stdout) == (0, "--try -- --json\n")
        assert json.loads(out.read_text())["command"] == ["echo", "--try", "--", "--json"]

    @pytest.mark.parametrize(
        ("name", "status"), [("./missing", 127), ("missing-everywhere", 127), ("/", 126)]
    )
    def test_a_program_that_cannot_run(self, name: str, status: int, tmp_path: Path) -> None:
        done = laconic("advise", "--try", "--", name, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (status, "")
        assert done.stderr.startswith("laconic: ") and len(done.stderr.splitlines()) == 1

    def test_nothing_stays_behind(self, tmp_path: Path) -> None:
        """The trace of a command is temporary."""
        done = laconic("advise", "--", "true", env={**os.environ, "TMPDIR": str(tmp_path)})
        assert done.returncode == 0
        assert list(tmp_path.iterdir()) == []

    def test_each_trial_is_announced(self, tmp_path: Path) -> None:
        """The program as it is once more, then each setting; a break that goes up and down is a
        cause of one."""
        out = tmp_path / "a.json"
        code = (
            "import ctypes; c = ctypes.CDLL(None)\n"
            "for _ in range(200): assert c.sbrk(1 << 20) != -1 and c.sbrk(-(1 << 20)) != -1"
        )
        done = laconic("advise", "--try", "--json", out, "--", sys.executable, "-c", code)
        output = [line for line in done.stderr.splitlines() if line.startswith("laconic: ")]
        assert done.returncode == 0, done.stderr
        assert output[0].startswith("laconic: 1 of 2 reruns: the program as it is")
        assert output[1].startswith(
            "laconic: 2 of 2 reruns: trying loader.env.MALLOC_MMAP_THRESHOLD_ = "
        )
        found = json.loads(out.read_text())
        assert found["unchanged"]["after"]["exit_status"] == 0
        assert found["together"] == {"after": None, "not_tried": None}
        # The calls are not malloc's, so that nothing can be gained.
        kept = next(each for each in found["advice"] if each["option"] == "MALLOC_MMAP_THRESHOLD_")
        assert "no measured figure is better than before" in kept["after"]["differences"]
        assert "But: no measured figure is better than before." in done.stderr
        assert "counts as no difference" in " ".join(done.stderr.split())

    def test_nothing_to_try_is_not_run_again(self) -> None:
        done = laconic("advise", "--try", "--", "true")
        assert done.returncode == 0 and "reruns" not in done.stderr
