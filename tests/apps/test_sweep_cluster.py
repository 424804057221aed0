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

from laconic.analysis import workers
from laconic.analysis.sweep import find, sweep
from laconic.errors import LaconicError
from tests.helpers.sweepwork import (
    counted,
    deadly,
    held,
    hold,
    in_session,
    release,
    rows,
    tracks,
    until,
)
from tests.helpers.traces import small
from tests.tracer.lab import COMMAND, environment, run_alone

REPOSITORY = Path(__file__).parents[2]
TRACES = 6


class Cluster:
    """A Dask scheduler on a free port of loopback, and workers of one process and one thread."""

    def __init__(self, directory: Path, stack: ExitStack, first: str = "") -> None:
        self.directory = directory
        self.file = directory / "scheduler.json"
        self.file.unlink(missing_ok=True)
        self.stack = stack
        self.scheduler = self.start(
            "scheduler", "--port", "0", "--scheduler-file", str(self.file), first=first
        )
        until(lambda: self.file.exists() and self.file.read_text().endswith("}"))
        self.address = str(json.loads(self.file.read_text())["address"])

    def start(self, what: str, *words: str, first: str) -> subprocess.Popen[bytes]:
        """Starts a Dask program, in a session of its own, which ends with the test; it looks in
        `first` for modules."""
        path = os.pathsep.join(filter(None, [first, str(REPOSITORY), environment()["PYTHONPATH"]]))
        env = environment(PYTHONPATH=path, DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="1")
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                f"distributed.cli.dask_{what}",
                "--host",
                "127.0.0.1",
                "--no-dashboard",
                *words,
            ],
            cwd=self.directory,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(self.directory / f"{what}.log").open("ab"),
            start_new_session=True,
        )
        self.stack.callback(self.stop, process)
        return process

    def work(self, first: str = "") -> None:
        """Starts a worker; its nanny starts it again when it is killed."""
        local = ("--local-directory", str(self.directory), "--death-timeout", "20")
        self.start("worker", self.address, "--nthreads", "1", *local, first=first)

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
        done = run_alone(
            [*COMMAND, "sweep", corpus, *words, "-o", tmp_path / name], env=environment()
        )
        assert (done.returncode, done.stderr) == (1, "")
        assert "log.trace (" in done.stdout and "cut.trace: " in done.stdout
    assert rows(tmp_path / "here") == rows(tmp_path / "there")


@pytest.mark.slow
def test_a_worker_killed_in_the_middle(cluster: Cluster, corpus: Path, tmp_path: Path) -> None:
    """Its trace is done by another, and a trace that kills whoever takes it is listed; the rest is
    all there."""
    small(corpus / "deadly.trace")
    arguments = find([str(corpus)]), ["laconic"], str(tmp_path / "r")
    hold(*arguments[0])
    thread = threading.Thread(
        target=sweep, args=arguments, kwargs={"scheduler": cluster.address, "work": held}
    )
    thread.start()
    until(lambda: len({line[2] for line in tracks(corpus)}) == 2)
    victim = tracks(corpus)[0]
    os.kill(int(victim[2]), signal.SIGKILL)
    until(lambda: len({line[2] for line in tracks(corpus)}) == 3)
    release(corpus)
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


@pytest.mark.slow
def test_a_second_start_goes_on_with_what_a_cluster_left(
    cluster: Cluster, corpus: Path, tmp_path: Path
) -> None:
    """The scheduler is killed when all is done but one; that one is done here."""
    traces = find([str(corpus)])
    hold(traces[-1])

    def progress(done: int) -> None:
        if done == TRACES - 1:
            cluster.stop(cluster.scheduler)

    with pytest.raises(LaconicError, match="went away: start it again") as caught:
        sweep(
            traces,
            ["laconic"],
            str(tmp_path / "r"),
            scheduler=cluster.address,
            work=held,
            progress=progress,
        )
    assert cluster.address in str(caught.value)
    release(corpus)
    (corpus / "tracks").unlink()
    swept = sweep(traces, ["laconic"], str(tmp_path / "r"), work=counted)
    assert (swept.kept, [line[0] for line in tracks(corpus)]) == (
        TRACES - 1,
        [Path(traces[-1]).name],
    )


@pytest.mark.slow
def test_a_cluster_without_laconic(corpus: Path, tmp_path: Path) -> None:
    """The workers are to have it; a scheduler needs none."""
    (tmp_path / "hidden" / "laconic").mkdir(parents=True)
    (tmp_path / "hidden" / "laconic" / "__init__.py").touch()
    hidden = str(tmp_path / "hidden")
    with ExitStack() as stack:
        started = Cluster(tmp_path, stack, hidden)
        started.work(hidden)
        with pytest.raises(
            LaconicError, match=r"No module named 'laconic\.analysis'.*install Laconic"
        ):
            sweep(find([str(corpus)]), ["laconic"], str(tmp_path / "r"), scheduler=started.address)
    with ExitStack() as stack:
        started = Cluster(tmp_path, stack, hidden)
        started.work()
        sweep(find([str(corpus)]), ["laconic"], str(tmp_path / "r"), scheduler=started.address)
    assert len(rows(tmp_path / "r")) == TRACES


def test_a_cluster_without_workers(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "ABSENCE", 1.5)
    with (
        ExitStack() as stack,
        pytest.raises(LaconicError, match="no worker for 2 s: start one with  dask worker"),
    ):
        alone = Cluster(tmp_path, stack)
        sweep(find([str(corpus)]), ["laconic"], str(tmp_path / "r"), scheduler=alone.address)
    assert not (tmp_path / "r.partial").exists()


@pytest.mark.parametrize(
    "address",
    [
        "tcp://127.0.0.1:{}",
        "127.0.0.1:{}",
        "tcp://127.0.0.1:many",
        "ftp://127.0.0.1:{}",
        "nonsense",
        "",
    ],
)
@pytest.mark.parametrize("listens", [False, True])
def test_no_scheduler_there(
    address: str, listens: bool, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A closed port, something else that listens, and what is not an address."""
    monkeypatch.setattr(workers, "ANSWER", 1.0)
    with (
        socket.socket() as there,
        pytest.raises(LaconicError, match="no Dask scheduler answers at"),
    ):
        there.bind(("127.0.0.1", 0))
        if listens:
            there.listen()
        sweep(
            find([str(corpus)]),
            ["laconic"],
            str(tmp_path / "r"),
            scheduler=address.format(there.getsockname()[1]),
        )
    assert not (tmp_path / "r.partial").exists()


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:{}", "nonsense"])
def test_the_command_says_so(address: str, corpus: Path, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        words: list[str | Path] = [
            corpus,
            "--scheduler",
            address.format(closed.getsockname()[1]),
            "-o",
            tmp_path / "r",
        ]
        done = run_alone([*COMMAND, "sweep", *words], env=environment())
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr
    assert done.stderr.startswith("laconic: no Dask scheduler answers at")
