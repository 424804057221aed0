"""`laconic sweep --scheduler` on a real Dask cluster: a scheduler and two workers, on loopback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.tracer.lab import COMMAND, environment, run_alone
from tests.unit.sweepwork import counted, deadly, held
from tests.unit.test_sweep import in_session, rows, tracks, until
from tests.unit.traces import small

from laconic import workers
from laconic.errors import LaconicError
from laconic.sweep import find, sweep

REPOSITORY = Path(__file__).parents[2]
TRACES = 6


class Cluster:
    """A Dask scheduler on a free port of loopback, and workers of one process and one thread."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.directory = directory
        self.file = directory / "scheduler.json"
        self.stack = stack
        self.scheduler = self.start("scheduler", "--port", "0", "--scheduler-file", str(self.file))
        until(lambda: self.file.exists() and self.file.read_text().endswith("}"))
        self.address = str(json.loads(self.file.read_text())["address"])

    def start(self, what: str, *words: str) -> subprocess.Popen[bytes]:
        """Starts a Dask program, in a session of its own, which ends with the test."""
        path = os.pathsep.join([str(REPOSITORY), environment()["PYTHONPATH"]])
        env = environment(
            PYTHONPATH=path,
            DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="1",
            DASK_DISTRIBUTED__ADMIN__LOG_LENGTH="100",
        )
        process = subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.dask_{what}", "--host", "127.0.0.1", "--no-dashboard", *words],
            cwd=self.directory,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(self.directory / f"{what}.log").open("ab"),
            start_new_session=True,
        )
        self.stack.callback(self.stop, process)
        return process

    def work(self) -> subprocess.Popen[bytes]:
        """Starts a worker; its nanny starts it again when it is killed."""
        return self.start(
            "worker", self.address, "--nthreads", "1", "--local-directory", str(self.directory), "--death-timeout", "20"
        )

    @staticmethod
    def stop(process: subprocess.Popen[bytes]) -> None:
        """Ends a Dask program with all that it started."""
        for pid in in_session(process.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        process.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with ExitStack() as stack:
        (tmp_path / "dask").mkdir()
        started = Cluster(tmp_path / "dask", stack)
        for _ in range(2):
            started.work()
        yield started


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    directory = tmp_path / "corpus"
    directory.mkdir()
    for number in range(TRACES):
        small(directory / f"{number}.trace")
    return directory


def test_the_same_rows_as_processes_here(cluster: Cluster, corpus: Path, tmp_path: Path) -> None:
    """And a damaged trace is listed, and nothing of Dask's own is printed."""
    content = (corpus / "0.trace").read_bytes()
    (corpus / "cut.trace").write_bytes(content[:-200])
    (corpus / "log.trace").write_text("mmap(NULL, 4096) = 0\n")
    for name, words in (("here", ["-j", "2"]), ("there", ["--scheduler", cluster.address])):
        done = run_alone([*COMMAND, "sweep", corpus, *words, "-o", tmp_path / name], env=environment())
        assert (done.returncode, done.stdout) == (1, ""), done.stderr
        assert "log.trace (laconic): " in done.stderr and "cut.trace: " in done.stderr
        assert done.stderr.startswith("laconic: ") and "istributed" not in done.stderr, done.stderr
    assert rows(tmp_path / "here") == rows(tmp_path / "there")


def test_a_worker_killed_in_the_middle(cluster: Cluster, corpus: Path, tmp_path: Path) -> None:
    """Its trace is done by another, and a trace that kills whoever takes it is listed; the rest is all there."""
    small(corpus / "deadly.trace")
    (corpus / "hold").touch()
    arguments = find([str(corpus)]), ["laconic"], str(tmp_path / "r")
    thread = threading.Thread(target=sweep, args=arguments, kwargs={"scheduler": cluster.address, "work": held})
    thread.start()
    until(lambda: len({line[2] for line in tracks(corpus)}) == 2)
    victim = tracks(corpus)[0]
    os.kill(int(victim[2]), signal.SIGKILL)
    until(lambda: len({line[2] for line in tracks(corpus)}) == 3)
    (corpus / "hold").unlink()
    thread.join()
    assert not [row for row in rows(tmp_path / "r") if row["error"]]
    assert [line[0] for line in tracks(corpus)].count(victim[0]) == 2

    (corpus / "tracks").unlink()
    swept = sweep(*arguments[:2], str(tmp_path / "deadly"), scheduler=cluster.address, work=deadly)
    bad = [row for row in swept.rows if row["error"]]
    assert [Path(row["trace"]).name for row in bad] == ["deadly.trace"]
    assert "2 workers were killed" in bad[0]["error"]
    good = [row for row in rows(tmp_path / "r") if "deadly" not in row["trace"]]
    assert [row for row in rows(tmp_path / "deadly") if not row["error"]] == good


def test_a_second_start_goes_on_with_what_a_cluster_left(cluster: Cluster, corpus: Path, tmp_path: Path) -> None:
    """The scheduler is killed in the middle; what is left is done here."""
    (corpus / "hold").touch()
    caught: list[BaseException] = []
    traces = find([str(corpus)])

    def progress(done: int) -> None:
        if done == 3:
            cluster.stop(cluster.scheduler)

    def run() -> None:
        try:
            sweep(traces, ["laconic"], str(tmp_path / "r"), scheduler=cluster.address, work=held, progress=progress)
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: tracks(corpus))
    (corpus / "hold").unlink()
    thread.join()
    if caught:  # unless all had been done by then
        assert isinstance(caught[0], LaconicError) and cluster.address in str(caught[0])
        (corpus / "tracks").unlink()
        swept = sweep(traces, ["laconic"], str(tmp_path / "r"), work=counted)
        assert swept.kept >= 3 and swept.kept + len(tracks(corpus)) == TRACES
    assert len(rows(tmp_path / "r")) == TRACES


def test_a_cluster_without_workers(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "ABSENCE", 1.5)
    with ExitStack() as stack, pytest.raises(LaconicError, match="no worker for 2 s: start one with  dask worker"):
        alone = Cluster(tmp_path, stack)
        sweep(find([str(corpus)]), ["laconic"], str(tmp_path / "r"), scheduler=alone.address)
    assert not (tmp_path / "r.partial").exists()


@pytest.mark.parametrize(
    "address", ["tcp://127.0.0.1:{port}", "127.0.0.1:{port}", "nonsense", "ftp://127.0.0.1:1", "tcp://127.0.0.1:many", ""]
)
def test_no_scheduler_there(address: str, corpus: Path, tmp_path: Path) -> None:
    """A port that nobody listens to, and what is no address."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        words = [corpus, "--scheduler", address.format(port=closed.getsockname()[1]), "-o", tmp_path / "r"]
        done = run_alone([*COMMAND, "sweep", *words], env=environment())
    assert (done.returncode, done.stdout) == (2, "")
    assert "no Dask scheduler answers at" in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not (tmp_path / "r.partial").exists()


def test_something_else_listens_there(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "ANSWER", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(LaconicError, match="no Dask scheduler"):
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        sweep(find([str(corpus)]), ["laconic"], str(tmp_path / "r"), scheduler=address)
