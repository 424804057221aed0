"""`laconic sweep` on this machine: the same rows however many work, and nothing lost whatever
happens."""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import duckdb
import polars
import pytest

from laconic.analysis.sweep import COLUMNS, choose, find, sweep, sweep_one
from laconic.errors import LaconicError
from laconic.replay import STRATEGIES
from laconic.strategies import NAMES
from tests.helpers.sweepwork import (
    counted,
    deadly,
    held,
    hold,
    in_session,
    older,
    release,
    rows,
    tracks,
    until,
)
from tests.helpers.traces import large, small
from tests.tracer.lab import COMMAND, environment, run_alone


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A directory of three small traces, one of them a directory lower."""
    directory = tmp_path / "corpus"
    (directory / "lower").mkdir(parents=True)
    for path in (directory / "a.trace", directory / "b.trace", directory / "lower" / "c.trace"):
        small(path)
    return directory


TRACES = 3
TWO = ("every-call", "laconic")


def laconic(*words: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs `laconic sweep WORDS`, which shows no traceback."""
    done = run_alone([*COMMAND, "sweep", *words], **{"env": environment(), **options})
    assert "Traceback" not in done.stderr, done.stderr
    return done


class TestRows:
    """What is in the result."""

    def test_the_same_for_1_2_and_4_workers(self, corpus: Path, tmp_path: Path) -> None:
        results = []
        for jobs in (1, 2, 4):
            path = tmp_path / f"{jobs}.parquet"
            swept = sweep(find([str(corpus)]), STRATEGIES, str(path), jobs=jobs)
            assert (len(swept.rows), swept.kept) == (TRACES * len(STRATEGIES), 0)
            results.append(rows(path))
        assert results[0] == results[1] == results[2]
        assert [(row["trace"], row["strategy"]) for row in results[0]] == sorted(
            (path, strategy) for path in find([str(corpus)]) for strategy in STRATEGIES
        )
        for row in results[0]:
            assert row["complete"] and row["error"] is None and row["loss"] == ""
            assert row["size"] == os.stat(row["trace"]).st_size
            assert row["calls"] == sum(line["calls"] for line in row["by_call"])

    def test_as_replay_counts(self, corpus: Path) -> None:
        import laconic.trace
        from laconic.replay import replay_trace

        path = str(corpus / "a.trace")
        for strategy in STRATEGIES:
            row = sweep_one(path, strategy)
            assert list(row) == list(COLUMNS)
            with laconic.trace.open(path) as trace:
                ledger = replay_trace(trace, strategy).ledger
            assert (row["calls"], row["host_calls"], row["elided"]) == (
                ledger.calls,
                ledger.host_calls,
                ledger.elided,
            )
            assert {kind: row[f"changed_{kind}"] for kind in ledger.changes()} == ledger.changes()

    def test_duckdb_and_polars_read_it(self, corpus: Path, tmp_path: Path) -> None:
        path = tmp_path / "it's.parquet"
        done = laconic(corpus, "-o", path)
        assert (done.returncode, done.stderr) == (0, "")
        query = done.stdout.split("Ask it, in DuckDB:")[1]
        answer = duckdb.sql(query)
        assert answer is not None
        calls = sum(count for _, _, count, _, _ in answer.fetchall())
        assert (
            calls
            == polars.read_parquet(path)["calls"].sum()
            == sum(row["calls"] for row in rows(path))
            > 0
        )

    def test_the_polars_example_of_the_page_reads_it(
        self,
        corpus: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        laconic(corpus, "-o", tmp_path / "result.parquet")
        page = (Path(__file__).parents[3] / "docs" / "sweep.md").read_text()
        (code,) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
        monkeypatch.chdir(tmp_path)
        exec(compile(code, "docs/sweep.md", "exec"), {})
        printed = capsys.readouterr().out
        assert "host_calls" in printed
        assert "classify" in printed

    def test_a_damaged_trace_counts_as_far_as_it_goes(self, corpus: Path, tmp_path: Path) -> None:
        whole = large(corpus / "whole.trace", 50_000)
        content = Path(whole).read_bytes()
        (corpus / "cut.trace").write_bytes(content[: len(content) * 2 // 3])
        done = laconic(corpus, "--strategy", "laconic", "-o", tmp_path / "r", "--json", "-")
        assert done.returncode == 0
        figures = {Path(row["trace"]).name: row for row in rows(tmp_path / "r")}
        cut = figures["cut.trace"]
        assert 0 < cut["calls"] < figures["whole.trace"]["calls"] == 50_000
        assert not cut["complete"] and "damaged or cut short" in cut["loss"]
        assert "1 trace not complete" in done.stderr
        assert json.loads(done.stdout)["incomplete"] == {str(corpus / "cut.trace"): cut["loss"]}

    def test_unreadable_traces_are_listed_and_the_others_have_rows(
        self, corpus: Path, tmp_path: Path
    ) -> None:
        (corpus / "log.trace").write_text("mmap(NULL, 4096) = 0\n")
        (corpus / "gone.trace").symlink_to("nowhere")
        done = laconic(corpus, "--strategy", "laconic", "-o", tmp_path / "r")
        assert done.returncode == 1
        errors = {
            Path(row["trace"]).name: row["error"] for row in rows(tmp_path / "r") if row["error"]
        }
        assert (
            "it looks like text" in errors["log.trace"] and "No such file" in errors["gone.trace"]
        )
        assert len(errors) == 2 and len(rows(tmp_path / "r")) == TRACES + 2
        assert "2 rows with an error" in done.stdout and str(corpus / "log.trace") in done.stdout

    def test_uncertain_counts_of_a_log_are_a_range(self, tmp_path: Path) -> None:
        small(tmp_path / "log.trace", source="strace")
        done = laconic(tmp_path, "--strategy", "laconic", "-o", tmp_path / "r")
        (row,) = rows(tmp_path / "r")
        assert row["source"] == "strace" and row["uncertain"] > 0
        assert f"{row['host_calls'] - row['uncertain']} to {row['host_calls']}" in done.stdout

    def test_a_name_that_is_no_text(self, tmp_path: Path) -> None:
        small(tmp_path / "a\udcff'.trace")
        done = laconic(tmp_path, "-o", tmp_path / "r\udcff", "--json", tmp_path / "j")
        assert done.returncode == 0
        assert rows(tmp_path / "r\udcff")[0]["trace"] == str(tmp_path / "a\\xff'.trace")


class TestKilled:
    """Workers that are killed."""

    def test_a_worker_killed_in_the_middle(self, corpus: Path, tmp_path: Path) -> None:
        hold(*find([str(corpus)]))
        thread = threading.Thread(
            target=sweep,
            args=(find([str(corpus)]), ["laconic"], str(tmp_path / "r")),
            kwargs={"jobs": 2, "work": held},
        )
        thread.start()
        until(lambda: len(tracks(corpus)) == 2)
        name, _, victim = tracks(corpus)[0]
        os.kill(int(victim), signal.SIGKILL)
        until(lambda: len(tracks(corpus)) == 3)
        release(corpus)
        thread.join()
        sweep(find([str(corpus)]), ["laconic"], str(tmp_path / "quiet"))
        assert rows(tmp_path / "r") == rows(tmp_path / "quiet")
        # Its own trace was done again, the other worker's was not.
        assert sorted(line[0] for line in tracks(corpus)) == sorted(
            ["a.trace", "b.trace", "c.trace", name]
        )

    @pytest.mark.parametrize("jobs", [1, 3])
    def test_a_trace_that_kills_its_workers_is_left_out(
        self, jobs: int, corpus: Path, tmp_path: Path
    ) -> None:
        small(corpus / "deadly.trace")
        swept = sweep(find([str(corpus)]), ["laconic"], str(tmp_path / "r"), jobs=jobs, work=deadly)
        bad = [row for row in swept.rows if row["error"]]
        assert [row["trace"] for row in bad] == [str(corpus / "deadly.trace")]
        assert "3 workers were killed" in bad[0]["error"] and "laconic replay" in bad[0]["error"]
        names = [line[0] for line in tracks(corpus)]
        assert (names.count("deadly.trace"), len(names)) == (3, TRACES + 3)
        assert rows(tmp_path / "r") == [{**row, "seconds": None} for row in swept.rows]


class TestGoingOn:
    """A sweep that was interrupted, and the second start."""

    def stop_after(self, count: int, corpus: Path, output: Path) -> None:
        """A sweep that is interrupted when that many rows are there."""

        def progress(done: int) -> None:
            if done == count:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            sweep(find([str(corpus)]), TWO, str(output), jobs=1, progress=progress)

    def test_a_trace_with_a_row_is_not_replayed_again(self, corpus: Path, tmp_path: Path) -> None:
        output, journal = tmp_path / "r", tmp_path / "r.partial"
        self.stop_after(4, corpus, output)
        assert not output.exists() and len(journal.read_text().splitlines()) == 4
        with journal.open("a") as file:  # as a power cut leaves it
            file.write('garbage\n{"trace": "' + str(corpus))
        self.stop_after(5, corpus, output)
        swept = sweep(find([str(corpus)]), TWO, str(output), work=counted)
        assert (swept.kept, len(tracks(corpus))) == (5, 1)
        assert not journal.exists()
        sweep(find([str(corpus)]), TWO, str(tmp_path / "quiet"))
        assert rows(output) == rows(tmp_path / "quiet")

    def test_a_trace_that_has_changed_and_one_that_failed_are_done_again(
        self, corpus: Path, tmp_path: Path
    ) -> None:
        (corpus / "log.trace").write_text("mmap(NULL, 4096) = 0\n" * 1000)
        self.stop_after(2 * TRACES + 1, corpus, tmp_path / "r")
        os.utime(corpus / "a.trace", ns=(1, 1))
        swept = sweep(find([str(corpus)]), TWO, str(tmp_path / "r"), work=counted)
        names = sorted(line[0] for line in tracks(corpus))
        assert names.count("a.trace") == names.count("log.trace") == 2
        assert swept.kept == 2 * (TRACES + 1) - len(names)

    @pytest.mark.parametrize(
        "blow", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGKILL]
    )
    def test_the_command_goes_on(self, blow: signal.Signals, tmp_path: Path) -> None:
        for name in "abcd":
            large(tmp_path / f"{name}.trace", 100_000)
        journal = tmp_path / "r.partial"
        words = [
            *COMMAND,
            "sweep",
            str(tmp_path),
            "--strategy",
            "laconic",
            "-j",
            "2",
            "-o",
            str(tmp_path / "r"),
        ]
        with subprocess.Popen(
            words, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True
        ) as process:
            until(lambda: journal.exists() and journal.read_bytes().count(b"\n") >= 1)
            if blow == signal.SIGINT:
                os.killpg(process.pid, blow)  # as a terminal does
            else:
                process.send_signal(blow)
            assert process.stderr is not None
            output = process.stderr.read()
        until(lambda: not in_session(process.pid))
        done = journal.read_bytes().count(b"\n")
        assert 1 <= done < 4
        if blow == signal.SIGINT:
            assert process.returncode == 130
            assert (
                output.splitlines()[0]
                == "laconic: interrupted; what is done is kept, and this goes on with it:"
            )
            again = shlex.split(output.splitlines()[1])
            assert (again, len(output.splitlines())) == (["laconic", *words[3:]], 2)
        second = laconic(*words[4:])
        assert second.returncode == 0
        assert f"4 rows in {tmp_path / 'r'}, {done} of them from an earlier start" in second.stdout
        assert [row["calls"] for row in rows(tmp_path / "r")] == [100_000] * 4


class TestNames:
    """Which traces, which strategies."""

    def test_traces(self, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        everything = [str(corpus / name) for name in ("a.trace", "b.trace", "lower/c.trace")]
        (corpus / "a.log").touch()
        (corpus / "again.trace").symlink_to("a.trace")
        monkeypatch.chdir(corpus)
        assert (
            find([str(corpus)])
            == find(["."])
            == find(["**/*.trace"])
            == find([".", "a.trace", "*.trace"])
        )
        assert find(["lower", "a.trace", "b.trace"]) == everything
        assert find(["a.log"]) == [str(corpus / "a.log")]
        (corpus / "[ab].trace").touch()
        assert find(["[ab].trace"]) == [str(corpus / "[ab].trace")]

    def test_strategies(self) -> None:
        assert choose("all") == list(STRATEGIES)
        assert choose("all", "sgx2") == list(NAMES) and choose("sgx-emm", "sgx2") == ["sgx-emm"]
        assert choose("laconic,every-call,laconic") == ["laconic", "every-call"]
        grid = choose("edmm-tuned:lazyfree=0/15,demand=8,laconic", "sgx2")
        assert grid == ["edmm-tuned:demand=8", "edmm-tuned:demand=8,lazyfree=15", "laconic"]
        for name in ("mute", "", "laconic,"):
            with pytest.raises(LaconicError, match="there is no strategy"):
                choose(name)


def test_help() -> None:
    text = laconic("--help", env=environment(COLUMNS="80")).stdout
    assert [line for line in text.splitlines() if len(line) > 80] == []
    assert "  laconic sweep traces/ -o result.parquet" in text


class TestBadInput:
    """Status 2, what was wrong, and the cure; nothing is left behind."""

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["corpus"], "-o"),
            (["-o", "r"], "DIR|GLOB"),
            (["missing", "-o", "r"], "'missing' matches no file"),
            (["*.gone", "-o", "r"], "'*.gone' matches no file"),
            (["empty", "-o", "r"], "'empty' holds no *.trace file"),
            (["", "-o", "r"], "'' matches no file"),
            (["corpus", "--strategy", "mute", "-o", "r"], "'mute'"),
            (["corpus", "-j", "0", "-o", "r"], "'0' is not a number of processes"),
            (["corpus", "-j", "many", "-o", "r"], "'many' is not a number of processes"),
            (["corpus", "-j", "2", "--scheduler", "tcp://127.0.0.1:1", "-o", "r"], "-j"),
            (["corpus", "-o", "missing/r"], "No such file or directory"),
            (["corpus", "-o", "empty"], "'empty' is not a regular file"),
            (["corpus", "-o", "/dev/null"], "'/dev/null' is not a regular file"),
            (
                ["corpus", "-o", "corpus/a.trace"],
                "exists already: name another file, or give --force",
            ),
            (["corpus", "-o", "r", "--json", "missing/j"], "--json 'missing/j' cannot be written"),
        ],
    )
    def test_is_named(self, words: list[str], message: str, corpus: Path, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        done = laconic(*words, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr
        assert sorted(os.listdir(tmp_path)) == ["corpus", "empty"]

    def test_force_replaces_a_result(self, corpus: Path, tmp_path: Path) -> None:
        assert laconic(corpus, "-o", tmp_path / "r").returncode == 0
        (corpus / "b.trace").unlink()
        assert laconic(corpus, "-o", tmp_path / "r").returncode == 2
        assert laconic(corpus, "-o", tmp_path / "r", "--force").returncode == 0
        assert len(rows(tmp_path / "r")) == (TRACES - 1) * len(STRATEGIES)

    @pytest.mark.parametrize(
        ("room", "full"), [(0, "a worker process"), (64, "r.partial' "), (4096, "-o '")]
    )
    def test_no_room(self, room: int, full: str, corpus: Path, tmp_path: Path) -> None:
        """Files that may not grow, as on a full disk: a process's semaphores, the journal, the
        result."""

        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))

        words: list[str | Path] = [
            corpus / "a.trace",
            "--strategy",
            "laconic",
            "-o",
            tmp_path / "r",
        ]
        done = laconic(*words, preexec_fn=limit)
        assert done.returncode == 2
        assert full in done.stderr and "File too large" in done.stderr
        assert not (tmp_path / "r").exists() and not (tmp_path / "r.new").exists()
        done = laconic(*words)
        assert (done.returncode, len(rows(tmp_path / "r"))) == (0, 1)
        assert ("1 of them from an earlier start" in done.stdout) == (room == 4096)

    def test_two_sweeps_into_one_result(self, corpus: Path, tmp_path: Path) -> None:
        traces = [str(corpus / "a.trace")]
        hold(*traces)
        thread = threading.Thread(
            target=sweep,
            args=(traces, ["laconic"], str(tmp_path / "r")),
            kwargs={"jobs": 1, "work": held},
        )
        thread.start()
        until(lambda: tracks(corpus))
        with pytest.raises(LaconicError, match="another sweep is writing"):
            sweep(traces, ["laconic"], str(tmp_path / "r"))
        release(corpus)
        thread.join()
        assert len(rows(tmp_path / "r")) == 1

    def test_a_worker_with_another_laconic(self, corpus: Path, tmp_path: Path) -> None:
        with pytest.raises(LaconicError, match=r"a worker has Laconic 0\.0\.0"):
            sweep(find([str(corpus)]), ["laconic"], str(tmp_path / "r"), jobs=1, work=older)

    def test_dask_is_not_there(self, corpus: Path, tmp_path: Path) -> None:
        (tmp_path / "distributed.py").write_text("raise ImportError")
        code = "import sys; from laconic.commands import main; sys.exit(main())"
        words: list[str | Path] = [
            sys.executable,
            "-c",
            code,
            "sweep",
            corpus,
            "--scheduler",
            "tcp://127.0.0.1:1",
            "-o",
            tmp_path / "r",
        ]
        path = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
        done = run_alone(words, env=environment(PYTHONPATH=path))
        assert done.returncode == 2
        assert "pip install 'laconic-mm[cluster]'" in done.stderr
        assert not (tmp_path / "r.partial").exists()
