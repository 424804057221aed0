"""laconic html: what laconic.toml and the built-in suppressions hide on the page, and what they do
not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import laconic.trace
from laconic.analysis.suppressions import Suppression
from laconic.analysis.timeline.collect import collect
from laconic.commands import main
from laconic.report.html import as_html, as_json
from laconic.report.html.data import SUPPRESSED_ROW
from laconic.sgx.costs import COSTED, CostProfile, Figure
from tests.helpers.pagetraces import known

PROFILE = CostProfile(
    "test", "a machine", {name: Figure(10, 30, "a source", "a machine") for name in COSTED}
)


class TestSuppressions:
    """What is suppressed is in neither the table of sites nor the flame graph, is counted, and
    stays in all else."""

    RULES = (
        Suppression("it is </script> ours", "mprotect", "grow"),
        Suppression("not there", "brk"),
    )

    def test_left_out_and_counted(self, tmp_path: Path) -> None:
        trace = laconic.trace.open(known(tmp_path / "a.trace"))
        page = collect(trace, PROFILE, suppressions=self.RULES)
        data, plain_data = (
            as_json(page),
            as_json(collect(laconic.trace.open(trace.path), PROFILE)),
        )
        assert data["hidden"] == [["it is </script> ours", 1, 8, 6]]
        names = data["names"]
        mprotects = [site for site in data["sites"] if names[site[0]] == "mprotect"]
        # One row stands for all that one reason suppresses.
        assert [(site[1], site[5:8]) for site in mprotects] == [(SUPPRESSED_ROW, [8, 6, 2])]
        assert len(data["sites"]) == len(plain_data["sites"])
        assert sum(site[5] for site in data["sites"]) == 12
        same = ("summary", "strategies", "missing", "binned")
        assert {key: data[key] for key in same} == {key: plain_data[key] for key in same}
        assert plain_data["hidden"] == []
        row = data["sites"].index(mprotects[0])
        # Marks and calls are of that row.
        marks = [space["marks"] for space in data["spaces"]["processes"]]
        assert [mark[3::4] for mark in marks] == [[row] * 6, []]
        assert [call[7] for call in data["calls"]].count(row) == 8
        assert b"it is \\u003c/script\\u003e ours" in as_html(page)

    def test_symbols_of_what_is_hidden_alone_are_not_told(self, tmp_path: Path) -> None:
        """A stack that is hidden is on no page, and is not said to be missing."""
        trace = laconic.trace.open(known(tmp_path / "a.trace"))
        page = collect(trace, PROFILE, suppressions=[Suppression("all", "m*", module="*")])
        data = as_json(page)
        assert data["stacks"] == []
        assert "grow" not in data["names"]
        assert sum(each[2] for each in data["hidden"]) == 9
        # The two calls of the child have none.
        assert any("of 12 calls have no stack" in sentence for sentence in data["missing"])

    def test_wrappers(self, tmp_path: Path) -> None:
        """How many places of a stack only make the call is told, for the site's name begins after
        them."""
        data = as_json(collect(laconic.trace.open(known(tmp_path / "a.trace")), PROFILE))
        stacked = [site for site in data["sites"] if data["names"][site[0]] == "mprotect"]
        assert [site[4] for site in stacked] == [1]

    def test_options(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        known(tmp_path / "a.trace")
        monkeypatch.chdir(tmp_path)
        rule = '[[suppress]]\nreason = "ours"\nfunction = "grow"\n'
        hidden = []
        for words in ([], ["--suppressions", "other.toml"], ["--no-suppressions"]):
            Path("laconic.toml").write_text(rule)
            Path("other.toml").write_text(rule.replace("ours", "theirs"))
            assert (
                main(["html", "a.trace", "-o", "r.html", "--force", "--json", "r.json", *words])
                == 0
            )
            hidden.append(json.loads(Path("r.json").read_text())["hidden"])
            output = (
                "6 redundant calls are hidden in it (--no-suppressions shows them)"
                in capfd.readouterr().err
            )
            assert output is (words != ["--no-suppressions"])
        assert hidden == [[["ours", 1, 8, 6]], [["theirs", 1, 8, 6]], []]

    def test_a_broken_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Line and column; no page is made of it, and none is lost."""
        known(tmp_path / "a.trace")
        monkeypatch.chdir(tmp_path)
        Path("laconic.toml").write_text('[[suppress]]\ncall = "brk"\nmodul = "x"\n')
        Path("old.html").write_text("mine")
        for page in ("r.html", "old.html"):
            assert main(["html", "a.trace", "-o", page, "--force"]) == 2
            assert (
                "'laconic.toml', line 3, column 1: there is no key 'modul'"
                in capfd.readouterr().err
            )
        assert not Path("r.html").exists()
        assert Path("old.html").read_text() == "mine"
        assert main(["html", "a.trace", "-o", "r.html", "--no-suppressions"]) == 0
