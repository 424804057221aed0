"""laconic replay: its options, what it says of loss, and differences that were planted in a
trace."""

from __future__ import annotations

import json
from collections.abc import Callable
from errno import ENOMEM
from pathlib import Path
from typing import Any

import pytest

import laconic.trace
from laconic.commands import main
from laconic.memory.change import EXTEND, RESTRICT
from laconic.memory.layout import Layout
from laconic.memory.space import AddressSpace
from laconic.memory.vma import Vma
from laconic.replay import STRATEGIES, replay_trace
from laconic.replay.thread import Mm, RecordedUpcalls, ReplayedThread
from laconic.trace.schema import CODES, FAILED, Row
from laconic.trace.writer import TraceWriter
from tests.helpers.replaytraces import PAGE, READ, RW, known
from tests.helpers.traces import BASE, MASK, Builder, small


def doctored(path: str, target: Path, change: Callable[[int, Row], list[Row]]) -> str:
    """The same trace with rows changed: `change` gets a row's number and the row, and returns what
    stands there."""
    trace = laconic.trace.open(path)
    writer = TraceWriter(str(target), trace.source, trace.about)
    for number, row in enumerate(trace.rows()):
        writer.rows += change(number, row)
    writer.close()
    return str(target)


def checked(
    path: str, capfd: pytest.CaptureFixture[str], *options: str
) -> tuple[int, dict[str, Any], str]:
    """Status, figures and standard error of `replay --check`."""
    status = main(["replay", "--check", "--json", "-", *options, path])
    out, err = capfd.readouterr()
    return status, json.loads(out), err


def test_a_trace_that_is_right(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status, figures, err = checked(known(tmp_path / "a.trace"), capfd)
    assert (status, err) == (0, "")
    assert figures["check"] == {
        "compared": 7, "differences": {"model error": 0, "lost data": 0, "unknown start": 0},
        "first": [],
    }  # fmt: skip
    assert (figures["calls"], figures["host_calls"], figures["elided"], figures["processes"]) == (
        7,
        4,
        3,
        1,
    )
    assert figures["changes"]["map"] == figures["changes"]["unmap"] == 1


def test_every_call_of_a_trace_by_laconic(tmp_path: Path) -> None:
    replayed = replay_trace(
        laconic.trace.open(known(tmp_path / "a.trace")), "every-call", check=True
    )
    assert (replayed.ledger.calls, replayed.ledger.host_calls, replayed.ledger.elided) == (7, 7, 0)
    assert replayed.check is not None and not replayed.check.counts


@pytest.mark.parametrize(
    ("call", "field", "value", "why"),
    [
        (3, "result", -ENOMEM, "another result"),
        (6, "result", 0, "another result"),
        (7, "result", -22, "another result"),
        (3, "host_calls", 2, "2 host calls for changes 0x0 were recorded, 0 for 0x0 replayed"),
        (
            4,
            "kinds",
            int(EXTEND),
            f"1 host calls for changes {int(EXTEND):#x} were recorded, 1 for {int(RESTRICT):#x}",
        ),
        (5, "a2", READ, "were recorded"),
    ],
)
def test_a_doctored_call_is_a_model_error(
    call: int, field: str, value: int, why: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Status 1; event, call, both results and the reason are named."""

    def change(number: int, row: Row) -> list[Row]:
        if number == call:
            changed: dict[str, Any] = {field: value}
            row = row._replace(**changed)
        return [row]

    path = doctored(known(tmp_path / "a.trace"), tmp_path / "b.trace", change)
    status, figures, err = checked(path, capfd)
    assert (status, err) == (1, "")
    first = figures["check"]["first"][0]
    assert figures["check"]["differences"]["model error"] >= 1
    assert (first["number"], first["pid"], first["cause"]) == (call, 100, "model error")
    assert why in first["why"]
    assert main(["replay", "--check", path]) == 1
    out, _ = capfd.readouterr()
    assert f"event {call}, process 100" in out and "model error 1" in out
    if field != "result":
        # A strategy that it was not recorded by is held to the results alone.
        assert main(["replay", "--check", "--strategy", "every-call", path]) == 0


@pytest.mark.parametrize("pid", [100, 0])
def test_after_a_loss_a_difference_is_lost_data(
    pid: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The trace says that calls are missing, of this process or of any: no fault of the model, and
    status 0."""

    def change(number: int, row: Row) -> list[Row]:
        lost = Row(CODES["lost"], row.time, pid, pid, a0=2, data=b"two calls")
        return [lost] if number == 7 else [row]

    path = doctored(known(tmp_path / "a.trace"), tmp_path / "b.trace", change)
    status, figures, err = checked(path, capfd)
    assert status == 0
    assert figures["check"]["differences"] == {"model error": 0, "lost data": 1, "unknown start": 0}
    assert figures["trace"]["loss"] == ["two calls (2)"]
    assert "is not complete: two calls (2)" in err


def test_loss_of_another_process_excuses_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def change(number: int, row: Row) -> list[Row]:
        lost = Row(CODES["lost"], row.time, 777, 777, a0=2, data=b"two calls")
        if number == 6:
            return [lost, row._replace(result=0)]
        return [row]

    path = doctored(known(tmp_path / "a.trace"), tmp_path / "b.trace", change)
    _, figures, _ = checked(path, capfd)
    causes = figures["check"]["differences"]
    assert sum(causes.values()) == 1


def test_a_host_that_refused_is_no_difference(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What the host did against what bookkeeping expected is taken from the trace."""

    def change(number: int, row: Row) -> list[Row]:
        if number == 4:
            maps = Row(CODES["maps"], row.time, 100, 100)
            return [maps, row._replace(result=-ENOMEM, state=FAILED, kinds=0)]
        if number == 5:
            row = row._replace(host_calls=0, kinds=0)
        return [row]

    status, figures, _ = checked(
        doctored(known(tmp_path / "a.trace"), tmp_path / "b.trace", change), capfd
    )
    assert (status, figures["check"]["first"]) == (0, [])
    assert figures["by_call"]["mprotect"]["failed"] == 2


def test_a_trace_without_its_end(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status, figures, err = checked(known(tmp_path / "a.trace", end=False), capfd)
    assert status == 0
    assert "not ended in order" in err
    assert any("not ended in order" in loss for loss in figures["trace"]["loss"])
    assert figures["exit_status"] is None


def test_options_that_are_wrong(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = small(tmp_path / "a.trace")
    assert main(["replay", "--strategy", "fastest", path]) == 2
    assert (
        "'fastest': choose from every-call, skip-equal, classify, laconic" in capfd.readouterr().err
    )
    assert main(["replay", "--json", str(tmp_path / "no" / "such"), path]) == 2
    assert "no/such' cannot be written" in capfd.readouterr().err


@pytest.mark.parametrize("strategy", [None, *STRATEGIES])
def test_json_to_standard_output_and_to_a_file(
    strategy: str | None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The same figures; on standard output there is nothing else."""
    path, target = known(tmp_path / "a.trace"), tmp_path / "figures.json"
    options = ["--strategy", strategy] if strategy else []
    assert main(["replay", *options, "--json", "-", path]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert main(["replay", *options, "--json", str(target), path]) == 0
    text, _ = capfd.readouterr()
    assert json.loads(out) == json.loads(target.read_text())
    assert "7 memory calls in 1 process" in text
    assert json.loads(out)["strategy"] == (strategy or "laconic")
    assert "check" not in json.loads(out)


def test_a_full_disk_for_json(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", "--json", "/dev/full", known(tmp_path / "a.trace")]) == 2
    assert "could not be written, No space left on device" in capfd.readouterr().err


def test_a_trace_that_was_killed_in_the_middle_of_a_map(tmp_path: Path) -> None:
    """The `vma` rows that a `maps` row announced are missing: nothing falls over them."""
    trace = Builder(tmp_path / "a.trace", about={"strategy": "laconic"})
    trace.row("program", 0, 0, data=json.dumps({"bits": 64, "layout": None}).encode())
    trace.row("maps", 5, 2)
    trace.row("vma", BASE, BASE + PAGE, 0x73, 0)
    replayed = replay_trace(laconic.trace.open(trace.cut()), check=True)
    assert replayed.ledger.calls == 0 and len(replayed.loss) == 1


def test_rows_of_threads_that_nobody_began(tmp_path: Path) -> None:
    """Only a damaged or foreign trace has them: no crash, and no figures made of nothing."""
    trace = Builder(tmp_path / "a.trace")
    for event in (
        "answer",
        "begin",
        "vma",
        "maps",
        "exit",
        "process",
        "clone",
        "execve",
        "personality",
        "note",
    ):
        trace.row(event, pid=4242, data=b"")
    trace.row("mprotect", BASE, PAGE, RW, pid=4243, result=0)
    trace.row("munmap", -PAGE & MASK, PAGE, pid=4244, result=-22)
    replayed = replay_trace(laconic.trace.open(trace.end()), check=True)
    assert replayed.ledger.calls == 0
    assert replayed.loss == ["vma events that cannot be true (1)"]


def test_a_range_of_the_hosts_map_is_answered_from_the_trace() -> None:
    """The recorded differences are laid over the held map, and what lies outside of the range is
    left out."""
    held = [(4 * PAGE, 8 * PAGE, Vma(3)), (9 * PAGE, 10 * PAGE, Vma(1))]
    thread = ReplayedThread(1, Mm(AddressSpace(Layout(), held)))
    up = RecordedUpcalls(True, {})
    up.thread = thread
    thread.map_runs.append([(5 * PAGE, 6 * PAGE, Vma(1)), (7 * PAGE, 8 * PAGE, None)])
    expected = [(5, 6, 1), (6, 7, 3), (9, 10, 1)]
    host = up.maps_in(5 * PAGE, 10 * PAGE)
    assert [(start // PAGE, end // PAGE, vma.flags) for start, end, vma in host] == expected
    assert [vma.flags for _, _, vma in up.maps_in(0, 5 * PAGE)] == [3], (
        "without a row, what is held"
    )


def test_a_replay_counts_the_rows_that_it_has_read(tmp_path: Path) -> None:
    trace = laconic.trace.open(known(tmp_path / "a.trace"))
    result = replay_trace(trace)
    assert result.events == sum(1 for _ in laconic.trace.open(trace.path).rows())
    assert result.check is None and result.strategy == "laconic"
    checked = replay_trace(laconic.trace.open(trace.path), check=True).check
    assert checked is not None and not checked.counts
