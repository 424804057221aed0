"""`laconic compare`, and the enclaves of `run`, `replay` and `sweep`: outputs, exit codes, bad
input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import polars
import pytest

from laconic.analysis.sweep import COLUMNS, sweep_enclave
from laconic.commands import main
from laconic.replay import STRATEGIES
from laconic.sgx import costs
from laconic.sgx.meter import THINGS
from laconic.strategies import NAMES
from tests.helpers.commandline import laconic
from tests.helpers.comparetraces import ALL, busy
from tests.helpers.traces import small
from tests.tracer.lab import COMMAND, children_of, environment, is_alive, wait_until


@pytest.fixture
def trace(tmp_path: Path) -> str:
    """A small recording."""
    return busy(tmp_path / "a.trace").end()


def profile(path: Path, change: str, by: str) -> Path:
    """The default cost profile with a line changed."""
    directory = Path(costs.__file__).with_name("profiles")
    text = (directory / f"{costs.DEFAULT}.toml").read_text()
    assert change in text
    path.write_text(text.replace(change, by, 1))
    return path


class TestTrace:
    """`laconic compare FILE`."""

    def test_tables_in_a_pipe(self, trace: str) -> None:
        """80 columns and no escape codes, whatever the environment says of colours and
        terminals."""
        words = ("compare", trace, "--by", "call", "--epc", "128M")
        plain = laconic(*words)
        assert (plain.returncode, plain.stderr) == (0, "")
        for more in (
            {"COLUMNS": "20", "FORCE_COLOR": "1", "CLICOLOR_FORCE": "1", "TERM": "xterm-256color"},
            {"NO_COLOR": "1", "COLUMNS": "400"},
        ):
            assert laconic(*words, env=environment(**more)).stdout == plain.stdout
        assert "\x1b" not in plain.stdout and max(map(len, plain.stdout.splitlines())) <= 80
        for word in (
            *ALL,
            "host",
            "ETRACK",
            "EAUG",
            "peak EPC",
            "profile published",
            "÷ bound",
            "mprotect",
            "MiB",
        ):
            assert word in plain.stdout

    def test_json(self, trace: str, tmp_path: Path) -> None:
        """To a file beside the tables, or alone to standard output."""
        path = tmp_path / "f.json"
        told = laconic("compare", trace, "--json", path)
        alone = laconic("compare", trace, "--json", "-")
        figures = json.loads(path.read_text())
        assert (
            json.loads(alone.stdout) == figures
            and alone.stderr == ""
            and "laconic: " in told.stdout
        )
        assert figures["strategies"].keys() == {*ALL} and figures["trace"]["path"] == trace
        assert figures["schema"] == 2 and figures["calls"] == 5
        assert figures["strategies"]["laconic"]["counts"].keys() == {
            *THINGS,
            "peak_epc_pages",
            "epc_pages",
        }

    def test_the_strategies_that_are_named(self, trace: str) -> None:
        """And those that the ratios are to."""
        figures = json.loads(
            laconic("compare", trace, "--strategy", "classify", "--json", "-").stdout
        )
        assert list(figures["strategies"]) == ["every-call", "classify", "bound"]

    def test_a_strategy_of_one_s_own(self, trace: str, tmp_path: Path) -> None:
        (tmp_path / "mine.py").write_text(
            "from laconic.strategies.laconic import Laconic\nclass Mine(Laconic):\n"
            '    name = "mine"\n'
        )
        run = laconic(
            "compare", "-j", "1", trace, "--strategy", "mine:Mine", "--json", "-", cwd=tmp_path
        )
        assert list(json.loads(run.stdout)["strategies"]) == ["every-call", "bound", "mine:Mine"]

    def test_a_strategy_of_one_s_own_that_lacks_methods(self, trace: str, tmp_path: Path) -> None:
        (tmp_path / "half.py").write_text(
            "from laconic.libos.strategy import Strategy\nclass Half(Strategy):\n"
            "    def end(self): pass\n"
        )
        run = laconic("compare", trace, "--strategy", "half:Half", cwd=tmp_path)
        assert run.returncode == 2
        assert (
            "'half:Half' lacks methods: define call, fork, grow, load, thread, thread_ends, touch"
            in run.stderr
        )

    def test_costs_of_one_s_own(self, trace: str, tmp_path: Path) -> None:
        own = profile(tmp_path / "mine.toml", 'name = "published"', 'name = "mine"')
        figures = json.loads(laconic("compare", trace, "--costs", own, "--json", "-").stdout)
        assert figures["profile"]["name"] == "mine"
        other = json.loads(
            laconic("compare", trace, "--costs", "fast-transitions", "--json", "-").stdout
        )
        assert (
            other["strategies"]["laconic"]["counts"] == figures["strategies"]["laconic"]["counts"]
        )
        assert (
            other["strategies"]["laconic"]["cycles"] != figures["strategies"]["laconic"]["cycles"]
        )

    def test_lost_data_is_reported(self, tmp_path: Path) -> None:
        done = laconic("compare", busy(tmp_path / "a.trace").cut())
        assert done.returncode == 0
        assert "is not complete: the trace was not ended in order" in done.stderr
        assert "every-call" in done.stdout

    def test_a_log_s_figures_are_ranges(self, tmp_path: Path) -> None:
        done = laconic(
            "compare", busy(tmp_path / "a.trace", source="strace").end(), "--by", "program"
        )
        assert done.returncode == 0 and " – " in done.stdout
        assert "does not say which pages were touched" in " ".join(done.stdout.split())

    def test_linux(self, trace: str) -> None:
        figures = json.loads(laconic("compare", trace, "--host", "linux", "--json", "-").stdout)
        assert list(figures["strategies"]) == list(STRATEGIES) and figures["host"] == "linux"
        assert figures["strategies"]["skip-equal"]["counts"]["host_calls"] == 4
        assert "on Linux" in laconic("compare", trace, "--host", "linux", "--by", "call").stdout

    @pytest.mark.parametrize("redirect", [">/dev/full", "| true", ">&-"])
    def test_an_output_that_is_full_or_gone(self, trace: str, redirect: str) -> None:
        done = laconic("compare", trace, redirect=redirect)
        assert done.stdout == ""
        if redirect == ">/dev/full":
            assert done.returncode == 2 and "standard output cannot be written" in done.stderr


class TestProcesses:
    """Those that a long trace is shared out to."""

    @pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGKILL])
    def test_one_line_and_nothing_is_left(self, blow: signal.Signals, tmp_path: Path) -> None:
        """Ctrl-C to all of them ends all quietly; where one is killed the others are ended."""
        path = busy(tmp_path / "a.trace", 40_000).end()
        words = [*COMMAND, "compare", path, "-j", "2"]
        with subprocess.Popen(
            words,
            env=environment(),
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            wait_until(lambda: len(workers(process.pid)) == 2, "two workers")
            mine = workers(process.pid)
            if blow == signal.SIGINT:
                os.killpg(process.pid, blow)  # as a terminal does
            else:
                os.kill(mine[0], blow)
            out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == ((130, "") if blow == signal.SIGINT else (2, ""))
        killed = "laconic: a process that replays the trace was killed (no memory?): give -j 1\n"
        assert err == ("" if blow == signal.SIGINT else killed)
        wait_until(lambda: not any(map(is_alive, mine)), "the workers to end")


def workers(pid: int) -> list[int]:
    """The processes that replay for `pid`."""
    found = []
    for child in children_of(pid):
        words = Path(f"/proc/{child}/cmdline").read_bytes()
        if b"spawn_main" in words:
            found.append(child)
    return found


class TestProgram:
    """`laconic compare -- CMD`."""

    def test_output_and_exit_status_are_the_program_s(self, tmp_path: Path) -> None:
        code = (
            "import sys; print('out'); print('err', file=sys.stderr); "
            "sys.exit(int(sys.stdin.read()))"
        )
        with open(tmp_path / "in", "w+") as file:
            file.write("7")
            file.seek(0)
            place = environment(TMPDIR=str(tmp_path))
            done = laconic("compare", "--", sys.executable, "-c", code, stdin=file, env=place)
        assert (done.returncode, done.stdout) == (7, "out\n")
        assert done.stderr.startswith("err\nlaconic: ") and "EACCEPT" in done.stderr
        assert sorted(os.listdir(tmp_path)) == ["in"], "the temporary trace is left behind"

    def test_figures_and_the_trace_that_is_kept(self, tmp_path: Path) -> None:
        path, kept = tmp_path / "f.json", tmp_path / "kept.trace"
        done = laconic("compare", "--json", path, "--keep", kept, "--", "sh", "-c", "exit 3")
        figures = json.loads(path.read_text())
        assert (done.returncode, figures["exit_status"], figures["command"]) == (
            3,
            3,
            ["sh", "-c", "exit 3"],
        )
        again = json.loads(laconic("compare", kept, "--json", "-").stdout)
        assert again["strategies"] == figures["strategies"]
        assert laconic("compare", "--keep", kept, "--", "true").returncode == 2
        assert laconic("compare", "--keep", kept, "--force", "--", "true").returncode == 0

    def test_arguments_after_the_dashes_are_the_program_s(self) -> None:
        done = laconic("compare", "--host", "linux", "--", "echo", "--json", "--", "-x")
        assert (done.returncode, done.stdout) == (0, "--json -- -x\n")

    @pytest.mark.parametrize(("program", "status"), [("./missing", 127), ("/", 126)])
    def test_a_program_that_cannot_run(self, program: str, status: int, tmp_path: Path) -> None:
        done = laconic("compare", "--", program, env=environment(TMPDIR=str(tmp_path)))
        assert (done.returncode, done.stdout) == (status, "") and os.listdir(tmp_path) == []

    def test_wrong_options_are_found_before_it_starts(self, tmp_path: Path) -> None:
        for words in (
            ["--costs", "missing"],
            ["--epc", "0"],
            ["--strategy", "mute"],
            ["--json", "missing/f"],
        ):
            assert (
                laconic("compare", *words, "--", "touch", "started", cwd=tmp_path).returncode == 2
            )
        assert os.listdir(tmp_path) == []

    def test_no_room_for_a_trace(self, tmp_path: Path) -> None:
        done = laconic("compare", "--keep", tmp_path / "missing" / "a.trace", "--", "true")
        assert done.returncode == 2 and "missing" in done.stderr


class TestBadInput:
    """Status 2; what was wrong, with its value, and the cure; nothing on standard output."""

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ([], "no trace was named"),
            (["--"], "no command was given"),
            (["a.trace", "b.trace"], "more than one trace"),
            (["a.trace", "--", "true"], "'a.trace' stands before --"),
            (["missing"], "'missing' cannot be read"),
            (["."], "'.' is a directory"),
            (["log"], "it looks like text"),
            (
                ["a.trace", "--strategy", "mute"],
                "'mute': choose from all, every-call, skip-equal, classify, laconic",
            ),
            (["a.trace", "--strategy", ""], "''"),
            (["a.trace", "--strategy", "laconic,"], "''"),
            (
                ["a.trace", "--host", "linux", "--strategy", "bound"],
                "'bound': choose from all, every-call",
            ),
            (["a.trace", "--host", "sgx1"], "'sgx1'"),
            (["a.trace", "--by", "thread"], "'thread'"),
            (
                ["a.trace", "--epc", "0"],
                "--epc '0' is not a size of an EPC: give 4K or more, as in 128M",
            ),
            (["a.trace", "--epc", "4095"], "'4095'"),
            (["a.trace", "--epc", "-5M"], "'-5M'"),
            (["a.trace", "--epc=-1"], "'-1'"),
            (["a.trace", "--epc", "many"], "'many'"),
            (["a.trace", "--epc", "12Q"], "'12Q'"),
            (["a.trace", "--epc", "9" * 30 + "T"], "9T'"),
            (["a.trace", "--epc", ""], "''"),
            (["a.trace", "--costs", "missing"], "no such cost profile: give a file, or one of"),
            (["a.trace", "--costs", "log"], "log: is not TOML"),
            (["a.trace", "--costs", "."], "give a readable TOML file"),
            (["a.trace", "-j", "0"], "'0' is not a number of processes"),
            (["a.trace", "-j", "-1"], "'-1' is not a number of processes"),
            (["a.trace", "--json", "missing/f"], "--json 'missing/f' cannot be written"),
            (["a.trace", "--keep", "b.trace"], "keeps the trace of a program"),
            (["a.trace", "--force"], "about the trace of a program"),
            (["--force", "--", "true"], "name the trace with --keep"),
            (["a.trace", "--host", "linux", "--epc", "1G"], "--epc '1G' is about enclaves"),
            (
                ["a.trace", "--host", "linux", "--costs", "published"],
                "--costs 'published' is about enclaves",
            ),
            (["a.trace", "--host", "linux", "--by", "program"], "--by program is about enclaves"),
            (["a.trace", "--frobnicate"], "--frobnicate"),
        ],
    )
    def test_is_named(self, words: list[str], message: str, tmp_path: Path) -> None:
        small(tmp_path / "a.trace")
        small(tmp_path / "b.trace")
        (tmp_path / "log").write_text("mmap(NULL, 4096) = 0\n")
        done = laconic("compare", *words, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr
        assert sorted(os.listdir(tmp_path)) == ["a.trace", "b.trace", "log"]

    @pytest.mark.parametrize(
        ("change", "by", "message"),
        [
            ("[host_calls]", "[host_call]", "host_call"),
            ("low = ", "low = -", "is negative"),
            ("low = ", "low = nan #", "is not a finite number"),
            ("low = ", "# low = ", "low is missing"),
        ],
    )
    def test_a_cost_file_that_is_wrong(
        self, change: str, by: str, message: str, trace: str, tmp_path: Path
    ) -> None:
        path = profile(tmp_path / "mine.toml", change, by)
        for words in (
            ["compare", trace], ["replay", trace, "--host", "sgx2"],
            ["run", "--host", "sgx2", "--", "true"],
            ["sweep", trace, "--host", "sgx2", "-o", tmp_path / "r"],
        ):  # fmt: skip
            at = words.index("--") if "--" in words else len(words)
            done = laconic(*words[:at], "--costs", path, *words[at:])
            assert (done.returncode, done.stdout) == (2, "")
            assert message in done.stderr and str(path) in done.stderr


class TestOtherVerbs:
    """`--host sgx2` of run, replay and sweep."""

    def test_run(self, tmp_path: Path) -> None:
        """The program runs as before; its enclave is in the table and in the JSON."""
        path = tmp_path / "f.json"
        program = ["sh", "-c", "echo out; exit 3"]
        words: list[str | Path] = [
            "run",
            "--host",
            "sgx2",
            "--strategy",
            "classify",
            "--json",
            path,
            "--",
            *program,
        ]
        done = laconic(*words, env=environment(TMPDIR=str(tmp_path)))
        figures = json.loads(path.read_text())
        assert (done.returncode, done.stdout) == (3, "out\n")
        assert list(figures["enclave"]["strategies"]) == ["every-call", "classify"]
        assert (figures["strategy"], figures["enclave"]["calls"]) == ("laconic", figures["calls"])
        assert "in an SGX2 enclave" in done.stderr and os.listdir(tmp_path) == ["f.json"]
        quiet = laconic(
            "run", "--host", "sgx2", "--quiet", "-o", tmp_path / "a.trace", "--", "true"
        )
        assert (quiet.stderr, quiet.returncode) == ("", 0)
        assert laconic("replay", tmp_path / "a.trace", "--check").returncode == 0

    @pytest.mark.parametrize(
        "words",
        [
            ["run", "--strategy", "sgx-emm", "true"],
            ["replay", "a.trace", "--strategy", "sgx-emm"],
            ["compare", "a.trace", "--host", "linux", "--strategy", "sgx-emm"],
            ["sweep", "a.trace", "-o", "result.parquet", "--strategy", "sgx-emm"],
        ],
    )
    def test_a_strategy_for_enclaves_only(
        self,
        words: list[str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        """One message from the registry, whichever the command; with --host sgx2 it is accepted."""
        small(tmp_path / "a.trace")
        monkeypatch.chdir(tmp_path)
        assert main(words) == 2
        told = capfd.readouterr().err
        assert (
            "the strategy 'sgx-emm' has no rule for Linux, only for enclaves: add --host sgx2"
            in told
        )
        assert told.count("\n") == 1

    def test_options_of_a_strategy(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """compare, replay and sweep accept a strategy with options, and compare and sweep a
        grid."""
        small(tmp_path / "a.trace")
        monkeypatch.chdir(tmp_path)
        grid = "edmm-tuned:lazyfree=15/0,demand=8"
        settings = ["edmm-tuned:demand=8,lazyfree=15", "edmm-tuned:demand=8"]
        assert main(["compare", "a.trace", "--strategy", grid, "--json", "c.json"]) == 0
        compared = json.loads((tmp_path / "c.json").read_text())
        assert list(compared["strategies"]) == ["every-call", *settings, "bound"]
        one = settings[0]
        replay = ["replay", "a.trace", "--host", "sgx2", "--strategy", one, "--json", "r.json"]
        assert main(replay) == 0
        replayed = json.loads((tmp_path / "r.json").read_text())
        counts = compared["strategies"][one]["counts"]
        assert replayed["enclave"]["strategies"][one]["counts"] == counts
        words = ["sweep", "a.trace", "--host", "sgx2", "--strategy", grid, "-o", "s.parquet"]
        assert main([*words, "-j", "1", "--json", "s.json"]) == 0
        swept = json.loads((tmp_path / "s.json").read_text())["strategies"]
        assert sorted(swept) == sorted(settings)
        assert swept[one]["eaccept"] == counts["eaccept"]
        capfd.readouterr()
        for words in (["compare"], ["replay", "--host", "sgx2"], ["run", "--host", "sgx2"]):
            assert main([*words, "--strategy", "edmm-tuned:size=1", "a.trace"]) == 2
            told = capfd.readouterr().err
            assert "has no option 'size=1'; use preheat=VALUE" in told
            assert told.count("\n") == 1

    @pytest.mark.parametrize(
        "words", [["--strategy", "sgx-emm"], ["--costs", "published"], ["--host", "sgx1"]]
    )
    def test_options_that_need_an_enclave_are_refused_without_one(
        self, words: list[str], tmp_path: Path
    ) -> None:
        done = laconic("run", *words, "--", "touch", "started", cwd=tmp_path)
        assert (done.returncode, os.listdir(tmp_path)) == (2, [])
        assert words[1] in done.stderr

    @pytest.mark.parametrize("strategy", NAMES)
    def test_replay(self, strategy: str, trace: str) -> None:
        done = laconic("replay", trace, "--host", "sgx2", "--strategy", strategy, "--json", "-")
        figures = json.loads(done.stdout)
        assert (figures["strategy"], done.returncode) == (strategy, 0)
        compared = json.loads(laconic("compare", trace, "--json", "-").stdout)["strategies"]
        for name, each in figures["enclave"]["strategies"].items():
            assert (
                each["counts"] == compared[name]["counts"]
                and each["cycles"] == compared[name]["cycles"]
            )
        assert {"every-call", strategy} == figures["enclave"]["strategies"].keys()

    def test_sweep(self, trace: str, tmp_path: Path) -> None:
        small(tmp_path / "log.trace", source="strace")
        result = tmp_path / "r.parquet"
        done = laconic("sweep", tmp_path, "--host", "sgx2", "-o", result, "--json", tmp_path / "j")
        assert (done.returncode, done.stderr) == (0, "")
        rows = polars.read_parquet(result).to_dicts()
        assert [list(row) for row in rows] == [list(COLUMNS)] * 2 * len(NAMES)
        compared = json.loads(laconic("compare", trace, "--json", "-").stdout)["strategies"]
        for row in rows:
            assert (row["host"], row["costs"], row["error"]) == ("sgx2", "published", None)
            assert row["cycles_low"] <= row["cycles_high"]
            assert (row["counts_low"] is None) == (row["source"] == "run")
            if row["source"] == "run":
                each = compared[row["strategy"]]
                assert {name: row[name] for name in THINGS} == {
                    name: each["counts"][name] for name in THINGS
                }
                assert (round(row["cycles_low"]), round(row["cycles_high"])) == tuple(
                    each["cycles"].values()
                )
        sums = json.loads((tmp_path / "j").read_text())["strategies"]
        assert sums["laconic"]["ioctls"] == sum(
            row["ioctls"] for row in rows if row["strategy"] == "laconic"
        )
        assert max(map(len, done.stdout.split("Ask it")[0].splitlines()[1:])) <= 80

    def test_a_row_of_another_host_is_not_kept(self, trace: str, tmp_path: Path) -> None:
        row = sweep_enclave(trace, "laconic")
        assert list(row) == list(COLUMNS) and row["cycles_low"] is None
        (tmp_path / "r.partial").write_text(json.dumps(row) + "\n")
        done = laconic("sweep", trace, "--strategy", "laconic", "-o", tmp_path / "r")
        assert done.returncode == 0 and "earlier start" not in done.stdout
        (tmp_path / "s.partial").write_text(json.dumps(row) + "\n")
        done = laconic(
            "sweep", trace, "--host", "sgx2", "--strategy", "laconic", "-o", tmp_path / "s"
        )
        assert done.returncode == 0 and "1 of them from an earlier start" in done.stdout
        assert polars.read_parquet(tmp_path / "s")["cycles_low"][0] > 0

    def test_a_sweep_s_costs_need_the_host(self, trace: str, tmp_path: Path) -> None:
        done = laconic("sweep", trace, "--costs", "published", "-o", tmp_path / "r")
        assert done.returncode == 2 and "--host sgx2" in done.stderr
