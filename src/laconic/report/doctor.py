"""The findings of `laconic doctor`, as JSON and for the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from laconic.analysis.schemas import SCHEMAS
from laconic.tracer.doctor import Finding


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the findings in the form that `doctor --json` writes."""
    return {"schema": SCHEMAS["doctor"], "findings": [asdict(finding) for finding in findings]}


def as_text(findings: Sequence[Finding], width: int = 80) -> str:
    """Return the findings for people: one line each, the fix below it, and what to do next."""
    lines: list[str] = []
    for finding in findings:
        head = f"{finding.level:<8} {finding.what}: {finding.text}"
        lines += textwrap.wrap(head, width, subsequent_indent=" " * 9)
        if finding.cure:
            lines += textwrap.wrap(
                f"cure: {finding.cure}", width, initial_indent=" " * 9, subsequent_indent=" " * 15
            )
    if any(finding.level == "missing" for finding in findings):
        lines.append("Laconic cannot run here until what is missing is there.")
    else:
        lines.append("Laconic runs here. Next:  laconic run -- python3 -c 'print(\"hello\")'")
    return "\n".join(lines) + "\n"
