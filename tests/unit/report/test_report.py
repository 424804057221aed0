"""The summary and doctor's findings: pure, within 80 columns, no number cut."""

from __future__ import annotations

from typing import Any

from laconic.memory.change import EXTEND, MAP, RESTRICT, Change
from laconic.memory.ledger import Ledger
from laconic.replay.check import LOST_DATA, MODEL_ERROR, UNKNOWN_START, ReplayDifference
from laconic.report import doctor as findings
from laconic.report import replay as replayed
from laconic.report import run as summary
from laconic.tracer.doctor import Finding


def ledger() -> Ledger:
    """Two calls' figures, one of them very large."""
    book = Ledger(processes=1)
    book.count("mmap", 1, 0x7000, changes=[Change(MAP, 0, 4096, None, None)])
    book.count("mprotect", 1, 0, True, [Change(EXTEND | RESTRICT, 0, 4096, None, None)])
    book.count("mprotect", 0, -12)
    book.by_call["mmap"].calls += 123_456_789_012
    book.note("gdb asked to trace")
    return book


def figures() -> dict[str, Any]:
    """The JSON of that ledger."""
    return summary.as_json(ledger(), ["prog", "a b"], 3, "laconic", "call", 1.5)


def test_json_adds_up() -> None:
    """The totals are the sums of the calls."""
    result = figures()
    assert result["calls"] == 123_456_789_015
    assert result["host_calls"] == 2
    assert result["elided"] == 1
    assert result["narrowed"] == 1
    assert result["by_call"] == {
        "mmap": {
            "calls": 123_456_789_013,
            "host_calls": 1,
            "elided": 0,
            "redundant": 0,
            "narrowed": 0,
            "failed": 0,
        },
        "mprotect": {
            "calls": 2,
            "host_calls": 1,
            "elided": 1,
            "redundant": 0,
            "narrowed": 1,
            "failed": 1,
        },
    }
    assert result["changes"] == {
        "map": 1,
        "unmap": 0,
        "flags": 0,
        "file": 0,
        "extend": 1,
        "restrict": 1,
        "zero": 0,
        "advise": 0,
    }


def test_the_table_is_the_same_bytes_every_time_and_fits() -> None:
    """Pure: the same figures, the same text; no escape codes, no ellipsis."""
    text = summary.as_text(figures(), 80)
    assert text == summary.as_text(figures(), 80)
    assert "123,456,789,013" in text
    assert "…" not in text
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_nothing_asked_is_no_table() -> None:
    """A program without memory calls has no rows."""
    text = summary.as_text(
        summary.as_json(Ledger(processes=1), ["x"], 0, "laconic", "off", 0.0), 80
    )
    assert text == "laconic: 0 memory calls in 1 process: 0 host calls, 0 elided\n"


def test_a_kind_and_its_count_stay_on_one_line() -> None:
    """The line of kinds breaks between them, at whatever width."""
    result = figures()
    result["changes"] = {"map": 1234, "unmap": 567, "extend": 89, "zero": 15}
    for width in range(60, 101):
        lines = summary.as_text(result, width).splitlines()
        for pair in ("map 1,234", "unmap 567", "extend 89", "zero 15"):
            assert any(pair in line for line in lines)
        assert max(map(len, lines)) <= width


def test_host_calls_of_a_log_are_those_that_would_have_been_made() -> None:
    """The source of a log made every host call; a recording counts those that were made."""
    result = figures()
    assert ": 2 host calls, 1 elided" in " ".join(summary.as_text(result, 80).split())
    result["trace"] = {"source": "strace", "uncertain": {"mprotect": 2}}
    text = " ".join(summary.as_text(result, 80).split())
    assert ": 0 to 2 host calls would have been made" in text
    assert "1 to 3 elided (0.0 %)" in text
    result["trace"]["uncertain"]["mprotect"] = 1
    row = next(line for line in summary.as_text(result, 80).splitlines() if line[:8] == "mprotect")
    assert " 0 to 1 " in row, "the host calls of one name are a range too"


def test_the_check_shows_model_errors_first_and_fits() -> None:
    """Behind any number of differences that the log explains."""
    result = figures()
    result["trace"] = {
        "source": "strace",
        "uncertain": {"mprotect": 1},
        "unknown": ["maps"],
        "not_followed": 3,
    }
    unknown = [difference(number, UNKNOWN_START) for number in range(30)]
    result["check"] = {
        "compared": 1,
        "differences": {MODEL_ERROR: 1, LOST_DATA: 0, UNKNOWN_START: 30},
        "first": [*unknown, difference(31, MODEL_ERROR)],
    }
    text = replayed.as_text(result, 80)
    shown = [line for line in text.splitlines() if line.startswith("  event")]
    assert shown[0].startswith("  event 31,") and shown[0].endswith(MODEL_ERROR)
    assert len(shown) == 10 and "and 21 more" in text
    assert "1 result compared, model error 1, unknown start 30" in text
    assert "1 host call is uncertain, and the ranges rest on it" in text
    assert max(map(len, text.splitlines())) <= 80


def difference(number: int, cause: str) -> dict[str, object]:
    """A difference as the JSON has it."""
    why = "the log shows no limits, mounts, privileges or kernel configuration, which can refuse it"
    found = ReplayDifference(
        number, 1_000_000, 7, 7, "munmap(0x7000, 0x1000)", "0", "-22", cause, why
    )
    return found._asdict()


def test_findings_name_the_cure() -> None:
    """What is missing comes with what to do, and with the last word."""
    text = findings.as_text(
        [Finding("ptrace", "missing", "refused " * 20, "allow it"), Finding("x", "ok", "fine")]
    )
    assert "cure: allow it" in text
    assert "cannot run here" in text
    assert max(map(len, text.splitlines())) <= 80
    assert findings.as_json([Finding("x", "ok", "fine")])["findings"][0]["what"] == "x"
