"""`laconic check`: every limit, every exit code, what it says in a log and to GitHub."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from laconic.analysis import check as gate
from laconic.analysis.baseline import Key, KeyTally, RunFigures
from laconic.analysis.check import parse_limit
from laconic.analysis.compare import compare
from laconic.memory.change import MAP
from laconic.report.check import as_github, as_text
from laconic.stacks.symbolize import Place
from laconic.trace.schema import CHOSEN
from laconic.trace.stacks import Stacks
from tests.helpers.commandline import laconic
from tests.helpers.sitetraces import sited
from tests.helpers.traces import BASE, Builder
from tests.tracer.lab import environment

#: 66 of 75 calls are redundant; 9 host calls.
PLAN = {"grow": (60, 3), "trim": (2, 5), "0x1234": (4, 0)}


@pytest.fixture
def trace(tmp_path: Path) -> str:
    """A trace by the plan."""
    return sited(tmp_path / "a.trace", PLAN)


class TestLimits:
    """0 where a limit is kept, 1 where it is not; the limit itself is allowed."""

    @pytest.mark.parametrize(
        ("words", "status"),
        [
            (("--max-redundant", "88%"), 0),
            (("--max-redundant", "87.9%"), 1),
            (("--max-redundant", "66"), 0),
            (("--max-redundant", "65"), 1),
            (("--max-redundant", "0%"), 1),
            (("--max-host-calls", "9"), 0),
            (("--max-host-calls", "8"), 1),
            (("--max-redundant", "66", "--max-host-calls", "8"), 1),
            (("--max-redundant", "65", "--max-host-calls", "9"), 1),
            (("--max-redundant", "66", "--max-host-calls", "9"), 0),
        ],
    )
    def test_exit_codes(self, trace: str, words: tuple[str, ...], status: int) -> None:
        done = laconic("check", trace, *words)
        assert (done.returncode, done.stderr) == (status, "")
        assert ("FAILED" in done.stdout) == bool(status)

    def test_the_worst_come_first_with_their_stacks(self, trace: str) -> None:
        done = laconic("check", trace, "--max-redundant", "5%", env=environment(FORCE_COLOR="1"))
        assert done.stdout.splitlines() == [
            "FAILED max-redundant: 66 of 75 memory calls changed nothing (88.0 %); 5 % may",
            "  60 of 63 mprotect calls from here changed nothing",
            "      grow (libgrow.so)",
            "    < main (prog)",
            "    in prog; costs 3.91–6.05 M cycles under every-call, 31 %",
            "  2 of 7 mprotect calls from here changed nothing",
            "      trim (libgrow.so)",
            "    < main (prog)",
            "    in prog; costs 0.434–0.672 M cycles under every-call, 3.4 %",
            "  4 of 4 mprotect calls from here changed nothing",
            "      libgrow.so+0x1234",
            "    < main (prog)",
            "    in prog; costs 248–384 k cycles under every-call, 2.0 %",
        ]
        words = ("--max-redundant", "5%", "--sort", "redundant")
        lines = laconic("check", trace, *words).stdout.splitlines()
        assert [line for line in lines if "      " in line] == [
            "      grow (libgrow.so)", "      libgrow.so+0x1234", "      trim (libgrow.so)",
        ]  # fmt: skip
        assert "    in prog" in lines

    def test_of_host_calls_too(self, trace: str) -> None:
        words = ("--max-host-calls", "3", "--limit", "1")
        done = laconic("check", trace, *words, "--sort", "limit")
        assert done.stdout.splitlines()[:3] == [
            "FAILED max-host-calls: 9 host calls; 3 may be",
            "  5 host calls for 7 mprotect calls from here",
            "      trim (libgrow.so)",
        ]
        done = laconic("check", trace, *words)
        assert "  1 host call for 1 mmap call from here\n      setup" in done.stdout
        assert done.stdout.endswith("\n  and 2 more (-v, --limit, --json)\n")

    def test_lower_ends_that_keep_a_limit_are_called_so(self, trace: str) -> None:
        note = "has no sizes of files: its costs may be higher"
        for words, is_noted in (
            (("--max-cycles", "1T"), True),
            (("--max-enclave-host-calls", "1000"), True),
            (("--max-cycles", "1"), False),
            (("--max-redundant", "88%"), False),
        ):
            done = laconic("check", trace, *words)
            assert (note in " ".join(done.stdout.split())) == is_noted, words

    def test_without_stacks_calls_are_named(self, tmp_path: Path) -> None:
        bare = sited(tmp_path / "bare.trace", PLAN, stacks=False)
        done = laconic("check", bare, "--max-redundant", "5%", "--max-host-calls", "3")
        assert done.returncode == 1
        assert "  66 mprotect calls from here changed nothing\n      (no stack)\n" in done.stdout
        assert "  8 host calls for 74 mprotect calls\n" in done.stdout

    def test_suppressed_calls_do_not_count(self, trace: str, tmp_path: Path) -> None:
        rules = tmp_path / "rules.toml"
        rules.write_text('[[suppress]]\nfunction = "grow"\n')
        done = laconic("check", trace, "--max-redundant", "6", "--suppressions", rules)
        assert done.returncode == 0
        told = (
            "66 of 75 memory calls changed nothing; 60 of them are suppressed, and 6 count (8.0 %)"
        )
        assert told in " ".join(done.stdout.split())
        assert laconic("check", trace, "--max-redundant", "6", "--no-suppressions").returncode == 1
        assert (
            laconic("check", trace, "--max-redundant", "5", "--suppressions", rules).returncode == 1
        )

    def test_as_json(self, trace: str) -> None:
        done = laconic(
            "check", trace, "--max-redundant", "5%", "--max-host-calls", "9", "--json", "-"
        )
        found = json.loads(done.stdout)
        assert (done.returncode, found["kept"], found["redundant"], found["host_calls"]) == (
            1,
            False,
            66,
            9,
        )
        assert [one["rule"] for one in found["limits"]] == ["max-redundant", "max-host-calls"]
        assert [one["kept"] for one in found["limits"]] == [False, True]
        worst = found["limits"][0]["offenders"][0]
        assert (worst["function"], worst["redundant"], worst["calls"], worst["was"]) == (
            "grow",
            60,
            63,
            None,
        )
        assert [frame["function"] for frame in worst["stack"]] == ["grow", "main"]


class TestBaseline:
    """A run is held to one before it."""

    @pytest.fixture
    def base(self, trace: str, tmp_path: Path) -> Path:
        """The baseline of the plan."""
        path = tmp_path / "base.json"
        done = laconic("check", trace, "--write-baseline", path)
        assert (done.returncode, done.stderr) == (0, "")
        return path

    def test_the_same_run_is_no_worse(self, trace: str, base: Path) -> None:
        done = laconic("check", trace, "--baseline", base)
        assert done.returncode == 0
        assert done.stdout == (
            "ok baseline: 66 redundant calls, 66 in the baseline\n"
            "ok baseline: 9 host calls, 9 in the baseline\n"
        )

    @pytest.mark.parametrize(
        ("tolerance", "status"), [((), 1), (("1",), 1), (("2",), 0), (("3%",), 1), (("150%",), 0)]
    )
    def test_one_site_that_is_worse(
        self, base: Path, tmp_path: Path, tolerance: tuple[str, ...], status: int
    ) -> None:
        """In all there are fewer redundant calls: what one place gained does not make up for
        another."""
        other = sited(tmp_path / "b.trace", {**PLAN, "grow": (30, 3), "trim": (4, 5)})
        done = laconic(
            "check", other, "--baseline", base, *(("--tolerance", *tolerance) if tolerance else ())
        )
        assert done.returncode == status
        if status:
            assert "1 site makes more than before" in " ".join(done.stdout.split())
            assert (
                "4 of 9 mprotect calls from here changed nothing, 2 in the baseline (+2)"
                in done.stdout
            )
            assert "grow (" not in done.stdout

    def test_more_host_calls(self, base: Path, tmp_path: Path) -> None:
        other = sited(tmp_path / "b.trace", {**PLAN, "trim": (2, 15)})
        done = laconic("check", other, "--baseline", base)
        assert done.returncode == 1
        assert "FAILED baseline: 19 host calls, 9 in the baseline" in done.stdout
        assert (
            "15 host calls for 17 mprotect calls from here, 5 in the baseline (+10)" in done.stdout
        )

    def test_the_json_of_a_replay_knows_calls(self, trace: str, tmp_path: Path) -> None:
        path = tmp_path / "figures.json"
        laconic("replay", trace, "--json", path)
        assert laconic("check", trace, "--baseline", path).returncode == 0
        other = sited(tmp_path / "b.trace", {**PLAN, "trim": (3, 5)})
        done = laconic("check", other, "--baseline", path)
        assert done.returncode == 1
        assert "67 of 75 mprotect calls changed nothing, 66 in the baseline (+1)" in done.stdout

    def test_the_costs_of_callers_are_no_limits(self, trace: str, tmp_path: Path) -> None:
        """Of its JSON, the redundant calls are a baseline; its costs only with --enclave."""
        path = tmp_path / "callers.json"
        laconic("callers", trace, "--json", path)
        done = laconic("check", trace, "--baseline", path)
        assert (done.returncode, done.stdout.count("ok baseline")) == (0, 2)
        done = laconic("check", trace, "--baseline", path, "--enclave")
        assert (done.returncode, done.stdout.count("ok baseline")) == (0, 4), done.stdout

    def test_a_baseline_that_is_not_kept_is_not_replaced(self, base: Path, tmp_path: Path) -> None:
        before = base.read_text()
        other = sited(tmp_path / "b.trace", {**PLAN, "trim": (4, 5)})
        assert laconic("check", other, "--baseline", base, "--write-baseline", base).returncode == 1
        assert base.read_text() == before
        fresh = tmp_path / "fresh.json"
        assert (
            laconic("check", other, "--baseline", base, "--write-baseline", fresh).returncode == 1
        )
        assert not fresh.exists()
        better = sited(tmp_path / "c.trace", {**PLAN, "trim": (1, 5)})
        assert (
            laconic("check", better, "--baseline", base, "--write-baseline", base).returncode == 0
        )
        assert json.loads(base.read_text())["redundant"] == 65

    def test_a_baseline_that_cannot_be_written(self, trace: str, tmp_path: Path) -> None:
        for path in (tmp_path, tmp_path / "missing" / "base.json", Path("/dev/full")):
            done = laconic("check", trace, "--write-baseline", path)
            assert done.returncode == 2
            assert str(path) in done.stderr


class TestEnclave:
    """Limits and baselines of the modelled enclave."""

    @pytest.fixture
    def figures(self, trace: str, tmp_path: Path) -> dict[str, Any]:
        """What `check --json` says of the enclave."""
        laconic("check", trace, "--enclave", "--max-redundant", "100", "--json", tmp_path / "f")
        found: dict[str, Any] = json.loads((tmp_path / "f").read_text())
        assert found["enclave"] == {"strategy": "every-call", "costs": "published"}
        return found

    def test_the_counts_are_those_of_compare(
        self, trace: str, figures: dict[str, Any], tmp_path: Path
    ) -> None:
        """A log does not tell touched pages, so `compare` has a range. Its low end is of no touched
        pages, as here."""
        every = compare(trace, ["every-call"]).strategies["every-call"]
        low = min(cycles[0] for cycles in every.cases)
        assert figures["enclave_host_calls"] == every.total.low.host_calls
        assert figures["cycles_low"] == round(low) < figures["cycles"]

    def test_limits(self, trace: str, figures: dict[str, Any]) -> None:
        """The limit itself is allowed; the sites that cost most are listed, and annotated."""
        host_calls, cycles = figures["enclave_host_calls"], figures["cycles"]
        limits = ["--max-enclave-host-calls", str(host_calls), "--max-cycles", str(cycles)]
        assert laconic("check", trace, *limits).returncode == 0
        limits = ["--max-enclave-host-calls", str(host_calls - 1), "--max-cycles", str(cycles - 1)]
        done = laconic("check", trace, *limits, "--github")
        assert done.returncode == 1
        assert f"{host_calls:,} enclave host calls under every-call" in done.stdout
        assert "enclave host calls for 63 mprotect calls from here" in done.stdout
        assert done.stdout.count("::error") >= 2 and "laconic max-cycles::" in done.stdout
        assert laconic("check", trace, "--max-cycles", "1T").returncode == 0

    def test_a_limit_names_sites_and_what_is_none(self) -> None:
        """Work around the calls and suppressed sites cost too, and do not take a site's place. A
        site with redundant calls that are suppressed is named as any other."""
        site = Key("brk", "__default_morecore", "libc.so.6", "prog")
        figures = RunFigures(
            "a",
            KeyTally(40, 1, 39, 50, 6_000_000, 9_000_000),
            hidden=1,
            sites={site: KeyTally(33, 0, 32, 20, 1_000_000, 2_000_000)},
            whole=True,
            enclave=("every-call", "published"),
            suppressed={"a rule": KeyTally(7, 1, 7, 7, 100_000, 200_000)},
            around={"fork": KeyTally(0, 0, 0, 23, 4_900_000, 6_800_000)},
        )
        limits = gate.Limits(max_host_calls=1, max_enclave_host_calls=1, max_cycles=1_000_000)
        lines = as_text(figures, gate.check(figures, limits), Stacks(), limit=1).splitlines()
        cycles = lines[next(at for at, line in enumerate(lines) if "max-cycles" in line) :]
        assert cycles == [
            "FAILED max-cycles: 6.00–9.00 M cycles in an enclave under every-call;",
            "  1.00 M cycles may be",
            "  fork: 4.90–6.80 M cycles (78 %)",
            "  1.00–2.00 M cycles (20 %) for 33 brk calls from here",
            "      __default_morecore",
            "    in prog",
            "  What 'a rule' hides: 100–200 k cycles (2.0 %)",
        ]
        assert sum(line.endswith("brk calls from here") for line in lines) == 3
        kinds = [one.kind for one in gate.check(figures, limits)[2].offenders]
        assert kinds == ["around", "site", "suppressed"]
        assert "fork: 23 enclave host calls" in as_text(
            figures, gate.check(figures, limits), Stacks(), limit=None
        )

    def test_a_baseline(self, trace: str, tmp_path: Path) -> None:
        """The same run is no worse; one call more is, in both figures, and its site is named."""
        base = tmp_path / "base.json"
        laconic("check", trace, "--enclave", "--write-baseline", base)
        same = ("--baseline", base)
        assert laconic("check", trace, *same).returncode == 0
        worse = sited(tmp_path / "b.trace", {**PLAN, "trim": (2, 7)})
        done = laconic("check", worse, *same)
        assert done.returncode == 1
        told = " ".join(done.stdout.split())
        assert re.search(r"FAILED baseline: [\d,]+ enclave host calls, [\d,]+ in the base", told)
        assert re.search(
            r"FAILED baseline: ([\d.]+)–([\d.]+) M cycles in an enclave, "
            r"([\d.]+)–([\d.]+) M cycles in the baseline \(\+[\d.]+–[\d.]+ [Mk]\)",
            told,
        )
        done = laconic("check", trace, *same, "--strategy", "laconic")
        assert done.returncode == 2
        assert "--strategy every-call --costs published; give these options" in done.stderr

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("--max-redundant", "1", "--costs", "published"), "is about enclaves; add --enclave"),
            (("--max-cycles", "4.5X"), "'4.5X' is not a number of cycles"),
            (("--enclave", "--strategy", "none", "--max-redundant", "1"), "'none'"),
        ],
    )
    def test_wrong_options(self, trace: str, words: tuple[str, ...], message: str) -> None:
        done = laconic("check", trace, *words)
        assert (done.returncode, done.stdout) == (2, "") and message in done.stderr

    def test_diff(self, trace: str, tmp_path: Path) -> None:
        other = sited(tmp_path / "b.trace", {**PLAN, "trim": (2, 7)})
        done = laconic("diff", trace, other, "--json", tmp_path / "d.json")
        total = json.loads((tmp_path / "d.json").read_text())["total"]
        assert total["enclave_host_calls"]["now"] > total["enclave_host_calls"]["was"] > 0
        assert total["cycles"]["now"] > total["cycles"]["was"] > total["cycles_low"]["was"]
        assert "M cycles, every-call" in done.stdout


class TestProgram:
    """`-- CMD`: the program's own failure comes first; its output is left alone."""

    def test_statuses(self, tmp_path: Path) -> None:
        for script, words, status in (
            ("print('said')", ("--max-redundant", "100%"), 0),
            ("print('said')", ("--max-host-calls", "0"), 1),
            ("print('said'); exit(7)", ("--max-host-calls", "0"), 7),
            (
                "print('said'); exit(7)",
                ("--max-redundant", "100%", "--write-baseline", str(tmp_path / "b.json")),
                7,
            ),
        ):
            done = laconic("check", *words, "--", sys.executable, "-c", script)
            assert (done.returncode, done.stdout) == (status, "said\n"), done.stderr
            assert ("FAILED" in done.stderr) == ("--max-host-calls" in words)
        assert not (tmp_path / "b.json").exists()

    def test_offenders_have_stacks(self) -> None:
        done = laconic(
            "check", "--max-host-calls", "0", "--limit", "1", "--", sys.executable, "-c", "pass"
        )
        assert re.search(r"(?m)^    < ", done.stderr), done.stderr

    def test_a_program_that_is_not_there(self, tmp_path: Path) -> None:
        base = tmp_path / "base.json"
        done = laconic("check", "--write-baseline", base, "--", "./missing", cwd=tmp_path)
        assert (done.returncode, base.exists()) == (127, False)


class TestBadInput:
    """Status 2, nothing on standard output, and one line with the cure."""

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ((), "nothing to check"),
            (("--max-redundant", "5"), "no trace was named"),
            (("--max-redundant", "5", "TRACE", "TRACE"), "more than one trace"),
            (("--max-redundant", "5", "TRACE", "--", "true"), "stands before --"),
            (("--max-redundant", "5", "--"), "no command was given"),
            (("TRACE",), "nothing to check"),
            (("TRACE", "--max-redundant", "many"), "'many' is not a limit"),
            (("TRACE", "--max-redundant", "0.05"), "'0.05' is not a limit"),
            (("TRACE", "--max-redundant", "-1"), "-1"),
            (("TRACE", "--max-host-calls", "5%"), "'5%' is not a number"),
            (("TRACE", "--tolerance", "5%", "--max-redundant", "1"), "--baseline"),
            (("TRACE", "--baseline", "missing.json"), "missing.json"),
            (("TRACE", "--baseline", "other.json"), "other.json"),
            (("TRACE", "--baseline", "empty.json"), "empty"),
            (("TRACE", "--max-redundant", "5", "--suppressions", "broken.toml"), "line 1, column"),
            (("TRACE", "--max-redundant", "5", "--suppressions", "missing.toml"), "missing.toml"),
            (("other.json", "--max-redundant", "5"), "is not a trace"),
            (("empty.json", "--max-redundant", "5"), "is empty"),
            (("TRACE", "--max-redundant", "5", "--json", "missing/x.json"), "missing/x.json"),
        ],
    )
    def test_it_is_named(
        self, trace: str, tmp_path: Path, words: tuple[str, ...], message: str
    ) -> None:
        (tmp_path / "other.json").write_text('{"findings": []}')
        (tmp_path / "empty.json").write_text("")
        (tmp_path / "broken.toml").write_text("[[suppress\n")
        done = laconic(
            "check", *(trace if word == "TRACE" else word for word in words), cwd=tmp_path
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr

    def test_a_trace_that_is_not_complete_keeps_no_limit(self, tmp_path: Path) -> None:
        """What is missing may go over it, and a baseline would be too low. A limit that is not
        kept, is not."""
        cut = Builder(tmp_path / "cut.trace")
        cut.program("/bin/prog", ["prog"])
        cut.row("mmap", 0, 8192, 3, 0x22, -1, 0, result=BASE, state=CHOSEN, host_calls=1, kinds=MAP)
        cut.row("mprotect", BASE, 8192, 3, result=0)
        path, base = cut.cut(), tmp_path / "base.json"
        for words, status in (
            (("--max-redundant", "1", "--write-baseline", base), 2),
            (("--max-redundant", "0"), 1),
        ):
            done = laconic("check", path, *words)
            assert (done.returncode, done.stderr.count("is not complete: ")) == (status, 1), (
                done.stderr
            )
            assert ("may go over the limits" in done.stderr) == (status == 2)
            assert "1 of 2 memory calls" in done.stdout
        assert not base.exists()

    def test_a_trace_is_not_overwritten(self, trace: str) -> None:
        before = Path(trace).read_bytes()
        for option in ("--json", "--write-baseline"):
            done = laconic("check", trace, "--max-redundant", "100%", option, trace)
            assert (done.returncode, done.stdout) == (
                2,
                "",
            ) and "is what is read: name another file" in done.stderr
        assert Path(trace).read_bytes() == before

    def test_a_trace_without_calls_keeps_every_limit(self, tmp_path: Path) -> None:
        empty = Builder(tmp_path / "none.trace").end()
        done = laconic("check", empty, "--max-redundant", "0%", "--max-host-calls", "0")
        assert done.returncode == 0
        assert done.stdout.startswith(
            "ok max-redundant: 0 of 0 memory calls changed nothing; 0 % may\n"
        )


class TestGitHub:
    """Workflow commands: escaped, and at the line of the source where it is in the repository."""

    def test_the_json_stays_alone(self, trace: str) -> None:
        done = laconic("check", trace, "--max-redundant", "5%", "--github", "--json", "-")
        assert json.loads(done.stdout)["schema"] == 2
        assert done.stderr.startswith("::error ")

    def test_they_follow_the_report(self, trace: str) -> None:
        done = laconic("check", trace, "--max-redundant", "5%", "--github", "--limit", "1")
        commands = [line for line in done.stdout.splitlines() if line.startswith("::")]
        assert commands == [
            "::error title=laconic max-redundant::66 of 75 memory calls changed nothing (88.0 "
            "%25); 5 %25 may",
            "::error title=laconic max-redundant::60 of 63 mprotect calls from here changed "
            "nothing: "
            "grow (libgrow.so) in prog%0A< main (prog)",
        ]
        assert "::" not in laconic("check", trace, "--max-redundant", "66", "--github").stdout

    def test_source_and_hostile_names(self) -> None:
        class Known(Stacks):
            def places(self, number: int) -> tuple[tuple[Place, bool], ...]:
                outside = Place("inlined", "p", "/usr/include/vector", 7, True)
                gone = Place("gone", "p", "build/made.c", 3)
                return (
                    (outside, False),
                    (gone, False),
                    (Place("a::b,c\n%", "p", "src/odd,na:me.c", 12), False),
                )

        key = Key("mmap", "inlined", "p", "p\r::error::x")
        figures = RunFigures(
            "a", KeyTally(2, 2, 0), sites={key: KeyTally(2, 2, 0)}, whole=True, stacks={key: 0}
        )
        verdicts = gate.check(figures, gate.Limits(parse_limit("0%")))
        text = as_github(
            figures, verdicts, Known(), "/repo", lambda path: path == "/repo/src/odd,na:me.c"
        )
        first, second = text.splitlines()
        assert first.startswith("::error title=laconic max-redundant::")
        assert second.startswith(
            "::error file=src/odd%2Cna%3Ame.c,line=12,title=laconic max-redundant::"
        )
        assert second.endswith(
            "p%0D::error::x%0A< gone (p) made.c:3%0A< a::b,c%0A%25 (p) odd,na:me.c:12"
        )


@pytest.mark.parametrize(
    "text", ["", "%", "x", "5 %%", "-5%", "1e3", "0.5", "inf", "nan%", "٣", True]
)
def test_a_text_that_is_not_a_limit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a limit"):
        parse_limit(text)


def test_shares_are_exact() -> None:
    """No rounding: 0.1 % of 3,000 is 3, not a little less."""
    assert parse_limit("0.1%").of(3000) == 3
    assert parse_limit(" 7 ").of(3000) == parse_limit(7).of(1) == 7
    assert [str(parse_limit(text)) for text in ("5%", "0.5%", "12345")] == [
        "5 %",
        "0.5 %",
        "12,345",
    ]
