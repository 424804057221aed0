"""The summary and doctor's findings: pure, within 80 columns, no number cut."""

from __future__ import annotations

from laconic.ledger import Ledger
from laconic.memory.change import EXTEND, MAP, RESTRICT, Change
from laconic.report import findings, summary
from laconic.tracer.examine import Finding


def ledger() -> Ledger:
    """Two calls' figures, one of them very large."""
    book = Ledger(processes=1)
    book.count("mmap", 1, 0x7000, changes=[Change(MAP, 0, 4096, None, None)])
    book.count("mprotect", 2, 0, True, [Change(EXTEND | RESTRICT, 0, 4096, None, None)])
    book.count("mprotect", 0, -12)
    book.calls["mmap"].asked += 123_456_789_012
    book.note("gdb asked to trace")
    return book


def figures() -> dict[str, object]:
    """The JSON of that ledger."""
    return summary.as_json(ledger(), ["prog", "a b"], 3, "laconic", "call", 1.5)


def test_json_adds_up() -> None:
    """The totals are the sums of the calls."""
    result = figures()
    assert result["asked"] == 123_456_789_015
    assert result["said"] == 3
    assert result["elided"] == 1
    assert result["narrowed"] == 1
    assert result["calls"] == {
        "mmap": {"asked": 123_456_789_013, "said": 1, "elided": 0, "narrowed": 0, "failed": 0},
        "mprotect": {"asked": 2, "said": 2, "elided": 1, "narrowed": 1, "failed": 1},
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
    text = summary.as_text(summary.as_json(Ledger(processes=1), ["x"], 0, "laconic", "off", 0.0), 80)
    assert text == "laconic: 0 memory calls in 1 process; the host heard 0; 0 needed no host call.\n"


def test_findings_name_the_cure() -> None:
    """What is missing comes with what to do, and with the last word."""
    text = findings.as_text([Finding("ptrace", "missing", "refused " * 20, "allow it"), Finding("x", "ok", "fine")])
    assert "cure: allow it" in text
    assert "cannot run here" in text
    assert max(map(len, text.splitlines())) <= 80
    assert findings.as_json([Finding("x", "ok", "fine")])["findings"][0]["what"] == "x"
