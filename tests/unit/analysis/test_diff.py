"""`laconic diff`: two runs by call and by site, and every input that it cannot read."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from laconic.analysis.baseline import Key, KeyTally, RunFigures, as_json, from_json, key_of
from laconic.analysis.diff import Delta, diff
from laconic.report.diff import as_text
from tests.helpers.commandline import laconic
from tests.helpers.sitetraces import sited
from tests.helpers.traces import Builder
from tests.tracer.lab import environment

BEFORE = {"grow": (60, 3), "trim": (2, 5), "0x1234": (4, 0)}
AFTER = {"grow": (20, 3), "trim": (9, 1), "0x9999": (4, 0)}


@pytest.fixture
def both(tmp_path: Path) -> tuple[str, str]:
    """Two traces, of a program that was built again and installed elsewhere in between."""
    first = sited(tmp_path / "before.trace", BEFORE)
    return first, sited(
        tmp_path / "after.trace", AFTER, program="/new/prog", module="/new/libgrow.so"
    )


class TestTraces:
    """Figures are those that the traces were made with."""

    def test_sites_are_matched_by_their_names(self, both: tuple[str, str]) -> None:
        """`trim` is worse and `grow` better; the function without a symbol is the same at another
        address."""
        done = laconic("diff", *both, "--json", "-")
        assert (done.returncode, done.stderr) == (0, "")
        found = json.loads(done.stdout)
        assert [site["function"] for site in found["sites"]] == ["trim", "grow"]
        assert found["sites"][1]["redundant"] == {"was": 60, "now": 20, "change": -40}
        assert found["sites"][0] == {
            "call": "mprotect", "function": "trim", "module": "libgrow.so", "program": "prog",
            "calls": {"was": 7, "now": 10, "change": 3},
            "redundant": {"was": 2, "now": 9, "change": 7},
            "host_calls": {"was": 5, "now": 1, "change": -4},
            "enclave_host_calls": {"was": 7, "now": 10},
            "cycles_low": {"was": 434350, "now": 620500},
            "cycles": {"was": 672000, "now": 960000},
        }  # fmt: skip
        assert [(call["call"], call["redundant"]["change"]) for call in found["by_call"]] == [
            ("mprotect", -33)
        ]
        assert (found["total"]["redundant"], found["total"]["hidden"]) == (
            {"was": 66, "now": 33, "change": -33}, {"was": 0, "now": 0},
        )  # fmt: skip

    def test_without_stacks_no_site_is_said_to_be_the_same(self, tmp_path: Path) -> None:
        paths = [
            sited(tmp_path / f"{place}.trace", plan, stacks=False)
            for place, plan in enumerate((BEFORE, AFTER))
        ]
        text = " ".join(laconic("diff", *paths).stdout.split())
        assert "Without stacks, the sites that changed are unknown." in text
        assert "No site changed" not in text

    def test_logs_of_which_one_knows_more_are_told_apart(self, tmp_path: Path) -> None:
        known, unknown = (
            sited(tmp_path / f"{place}.trace", BEFORE, unknown=what)
            for place, what in enumerate(((), ("touched pages",)))
        )
        assert json.loads(laconic("diff", known, unknown, "--json", "-").stdout)["notes"] == [
            f"'{known}' has no sizes of files: its costs may be higher",
            f"'{unknown}' has no touched pages or sizes of files: its costs may be higher",
        ]
        assert not json.loads(laconic("diff", unknown, unknown, "--json", "-").stdout)["notes"]

    def test_the_same_run(self, both: tuple[str, str]) -> None:
        done = laconic("diff", both[0], both[0])
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("Nothing changed: both runs make 75 calls, which cost ")
        assert "worse" not in done.stdout and "better" not in done.stdout

    def test_the_text(self, both: tuple[str, str]) -> None:
        done = laconic("diff", *both, env=environment(FORCE_COLOR="1", COLUMNS="200"))
        worse, _, better = done.stdout.partition(
            "\nbetter, by change of cost in an enclave under every-call: 1 site\n"
        )
        assert "+7 redundant (2 -> 9), -4 host calls (5 -> 1)" in " ".join(worse.split())
        assert "trim (libgrow.so) in prog" in worse.partition("\nworse, by change of cost")[2]
        assert "-40 redundant (60 -> 20)" in " ".join(better.split())
        assert re.search(r"^redundant +66 +33 +-33$", done.stdout, re.MULTILINE)
        assert " ".join(done.stdout.split()).startswith(
            "The second run costs 18 % less, 10.1–16.5 M cycles in an enclave: mprotect from "
            "grow (libgrow) costs "
            "2.48–3.84 M cycles less (63 calls before, 23 after). Under every-call it was "
            "12.4–20.0 M cycles before. "
            "Next: mprotect from trim (libgrow) costs 186–288 k cycles more (7 calls before, 10 "
            "after)."
        )
        assert "\x1b" not in done.stdout
        assert max(map(len, done.stdout.splitlines())) <= 80

    def test_sites_are_sorted_by_their_change_of_cost(self, tmp_path: Path) -> None:
        """`calm` has the most redundant calls more, and `busy` the most calls that cost."""
        first = sited(tmp_path / "1.trace", {"calm": (1, 0), "busy": (0, 1)})
        second = sited(tmp_path / "2.trace", {"calm": (3, 0), "busy": (0, 9)})
        for words, order in (((), ["busy", "calm"]), (("--sort", "redundant"), ["calm", "busy"])):
            found = json.loads(laconic("diff", first, second, *words, "--json", "-").stdout)
            assert [site["function"] for site in found["sites"]] == order
            assert found["sort"] == (words[1] if words else "cost")
        # A log tells no touched pages, and each mprotect costs the same.
        busy = {site["function"]: site["cycles"] for site in found["sites"]}
        assert (busy["busy"]["now"] - busy["busy"]["was"]) * 2 == 8 * (
            busy["calm"]["now"] - busy["calm"]["was"]
        )

    def test_no_color(self, both: tuple[str, str]) -> None:
        done = laconic("diff", *both, env=environment(NO_COLOR="1"))
        assert "\x1b" not in done.stdout

    def test_without_stacks_it_says_so(self, tmp_path: Path) -> None:
        first, second = (
            sited(tmp_path / f"{n}.trace", {"f": (n, 1)}, stacks=False) for n in (1, 3)
        )
        done = laconic("diff", first, second)
        assert done.returncode == 0
        assert "mprotect: +2 redundant (1 -> 3)" in done.stdout
        assert "(no stack) in prog" in done.stdout
        assert "not every call's stack is known" in " ".join(done.stdout.split())

    def test_suppressions(self, both: tuple[str, str], tmp_path: Path) -> None:
        rules = tmp_path / "rules.toml"
        rules.write_text('[[suppress]]\nreason = "mine"\nfunction = "grow"\n')
        found = json.loads(laconic("diff", *both, "--suppressions", rules, "--json", "-").stdout)
        assert [site["function"] for site in found["sites"]] == ["trim"]
        assert found["total"]["hidden"] == {"was": 60, "now": 20}


class TestJson:
    """The JSON of other verbs serves as well as a trace."""

    def test_of_a_replay_calls_are_compared(self, both: tuple[str, str], tmp_path: Path) -> None:
        path = tmp_path / "figures.json"
        assert laconic("replay", both[0], "--json", path).returncode == 0
        found = json.loads(laconic("diff", path, both[1], "--json", "-").stdout)
        assert found["sites"] is None
        assert [(call["call"], call["redundant"]["change"]) for call in found["by_call"]] == [
            ("mprotect", -33)
        ]
        assert found["notes"] == [
            f"{str(path)!r} does not tell sites apart",
            f"{str(path)!r} does not contain costs, so costs are not compared",
        ]
        assert (found["sort"], "enclave" in found["total"]) == ("redundant", False)
        assert found["headline"]["text"] == (
            "The second run makes 33 redundant calls fewer: 33 after 66."
        )

    def test_a_baseline_is_as_good_as_its_trace(
        self, both: tuple[str, str], tmp_path: Path
    ) -> None:
        path = tmp_path / "base.json"
        assert laconic("check", both[0], "--enclave", "--write-baseline", path).returncode == 0
        first, second = (
            json.loads(laconic("diff", one, both[1], "--json", "-").stdout)
            for one in (both[0], path)
        )
        assert {**first, "first": ""} == {**second, "first": ""}
        assert laconic("diff", path, both[0]).stdout.startswith("Nothing changed: ")

    def test_of_callers_the_redundant_calls_of_sites_are_compared(self) -> None:
        line = {
            "name": "f",
            "call": "brk",
            "module": "m.so",
            "program": "/bin/p",
            "redundant": 3,
            "calls": None,
            "suppressed_redundant": None,
        }
        data = {
            "schema": 3,
            "sort": "cost",
            "stackless": 4,
            "by": "function",
            "inverted": False,
            "calls": 9,
            "redundant": 5,
            "host_calls": 4,
            "suppressed": [{"reason": "why", "redundant": 2}],
        }
        figures = from_json({**data, "callers": [line]}, "callers.json")
        assert figures.sites == {Key("brk", "f", "m.so", "p"): KeyTally(0, 3, 0)}
        assert (figures.hidden, figures.redundant, figures.by_call, figures.whole) == (
            2,
            3,
            None,
            False,
        )
        other = RunFigures(
            "b",
            KeyTally(9, 3, 6),
            sites={Key("brk", "f", "m.so", "p"): KeyTally(7, 1, 6)},
            by_call={},
            whole=True,
        )
        found = diff(figures, other)
        assert found.sites is not None
        assert [(delta.redundant, delta.calls, delta.host_calls) for delta in found.sites] == [
            (-2, 0, 0)
        ]
        assert found.by_call is None

    def test_of_check_the_sums_are_compared(self, both: tuple[str, str], tmp_path: Path) -> None:
        """Suppressed calls are in the sums, as in those of a trace; offenders are some of the
        sites, and not used."""
        path, rules = tmp_path / "check.json", tmp_path / "rules.toml"
        rules.write_text('[[suppress]]\nfunction = "grow"\n')
        hiding = ("--suppressions", rules)
        assert (
            laconic("check", both[0], "--max-redundant", "0", "--json", path, *hiding).returncode
            == 1
        )
        found = json.loads(laconic("diff", path, both[1], "--json", "-", *hiding).stdout)
        assert (found["by_call"], found["sites"]) == (None, None)
        whole = json.loads(laconic("diff", *both, "--json", "-", *hiding).stdout)["total"]
        counts = ("calls", "redundant", "host_calls", "hidden")
        assert found["total"] == {name: whole[name] for name in counts}
        assert laconic("check", both[0], "--baseline", path, *hiding).returncode == 0
        more = laconic(
            "check", sited(tmp_path / "more.trace", {"trim": (90, 20)}), "--baseline", path
        )
        assert more.returncode == 1
        assert (
            "  90 of 110 mprotect calls from here changed nothing\n      trim (libgrow.so)\n"
            in more.stdout
        )
        assert (
            "  20 host calls for 110 mprotect calls from here\n      trim (libgrow.so)\n"
            in more.stdout
        )

    def test_callers_own_json(self, both: tuple[str, str], tmp_path: Path) -> None:
        """As `callers` writes it now: the same sites as in the trace itself; sorted by redundant
        calls, those that have such calls."""
        path = tmp_path / "callers.json"
        sites = []
        for words in ((), ("--sort", "redundant")):
            assert laconic("callers", both[0], *words, "--json", path).returncode == 0
            first, second = (
                json.loads(laconic("diff", one, both[1], "--json", "-").stdout)
                for one in (both[0], path)
            )
            sites.append(second["sites"])
        assert sites[0] == first["sites"]
        assert [(one["function"], one["redundant"]) for one in sites[1]] == [
            (one["function"], one["redundant"])
            for one in first["sites"]
            if one["redundant"]["change"]
        ]
        assert second["by_call"] is None and second["sites"][0]["calls"] is None

    def test_a_written_baseline_is_read(self) -> None:
        sites = {Key("mmap", "f<int>", "libx.so", "p"): KeyTally(5, 2, 3)}
        figures = RunFigures("a", KeyTally(9, 4, 5), 2, {"mmap": KeyTally(9, 4, 5)}, sites, True)
        assert from_json(json.loads(json.dumps(as_json(figures))), "a") == figures


@pytest.mark.parametrize(
    ("was", "now", "worse"),
    [
        (KeyTally(9, 3, 6), KeyTally(9, 4, 5), True),  # more redundant calls, whatever else
        (KeyTally(9, 3, 6), KeyTally(9, 2, 7), False),
        (KeyTally(9, 3, 6), KeyTally(10, 3, 7), True),  # as many, and more host calls
        (KeyTally(9, 3, 6), KeyTally(8, 3, 5), False),
        (KeyTally(9, 3, 6), KeyTally(10, 3, 6), True),  # as many of both, and more calls
        (KeyTally(9, 3, 6), KeyTally(8, 3, 6), False),
    ],
)
def test_worse_is_more_redundant_calls_then_more_host_calls_then_more_calls(
    was: KeyTally, now: KeyTally, worse: bool
) -> None:
    assert Delta(Key("brk"), was, now).is_worse() == worse


class TestBadInput:
    """Status 2 and one line that names the file and the cure."""

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "is empty"),
            (b"hello\n", "is not a trace: it looks like text"),
            (b"\x7fELF\x02", "a program"),
            (b"{", "is not JSON"),
            (b"[1, 2]", "is not a trace"),
            (b"{}", "none that laconic run"),
            (b'{"findings": []}', "none that laconic run"),
            (b'{"baseline": 99}', "schema 99"),
            (b'{"baseline": 2, "calls": 3}', "there is no 'redundant'"),
            (
                b'{"baseline": 2, "calls": "many", "redundant": 0, "host_calls": 0}',
                "calls is 'many', no count",
            ),
            (b'{"schema": 99, "strategy": "laconic", "elided": 1}', "schema 99"),
            (b'{"schema": 3, "callers": [], "by": "module", "inverted": false}', "--by module"),
            (b'{"schema": 3, "callers": [], "by": "function", "inverted": true}', "--inverted"),
            (
                b'{"schema": 3, "callers": 7, "by": "function", "inverted": false, "suppressed": '
                b"[]}",
                "is damaged",
            ),
            (b'{"a": ' + b"[" * 100_000, "is not JSON"),
        ],
    )
    def test_a_file_of_another_kind(
        self, content: bytes, message: str, both: tuple[str, str], tmp_path: Path
    ) -> None:
        path = tmp_path / "bad"
        path.write_bytes(content)
        for words in ((path, both[0]), (both[0], path)):
            done = laconic("diff", *words)
            assert (done.returncode, done.stdout) == (2, "")
            assert message in done.stderr
            assert str(path) in done.stderr
            assert done.stderr.count("\n") == 1

    def test_a_file_that_is_not_there_and_a_directory(
        self, both: tuple[str, str], tmp_path: Path
    ) -> None:
        for path in (tmp_path / "missing.trace", tmp_path):
            done = laconic("diff", both[0], path)
            assert (done.returncode, done.stdout) == (2, "")
            assert str(path) in done.stderr

    def test_a_trace_without_events(self, both: tuple[str, str], tmp_path: Path) -> None:
        done = laconic("diff", Builder(tmp_path / "none.trace").end(), both[0])
        assert done.returncode == 0
        assert ["calls", "0", "75", "+75"] in [line.split() for line in done.stdout.splitlines()]

    def test_words(self, both: tuple[str, str], tmp_path: Path) -> None:
        for words, output in (
            ((), "0 runs are named: give two"),
            (both[:1], "1 run is named: give two"),
            ((*both, both[0]), "3 runs are named: give two"),
            (("--", "touch", "ran"), "the run before is not named"),
            ((*both, "--", "touch", "ran"), "stands before --: name one run there"),
            ((both[0], "--"), "no command was given"),
            (("missing", "--", "touch", "ran"), "missing"),
            ((*both, "--keep", "kept"), "keeps the trace of a program"),
            ((*both, "--limit", "0"), "'0' is not a number"),
            ((*both, "--json", str(tmp_path)), "Is a directory"),
        ):
            done = laconic("diff", *words, cwd=tmp_path)
            assert (done.returncode, done.stdout) == (2, "")
            assert output in done.stderr
        assert not (tmp_path / "ran").exists()

    def test_modules_without_symbols_are_named(self, both: tuple[str, str], tmp_path: Path) -> None:
        from tests.helpers.explaintraces import unpacked

        gone = unpacked(tmp_path / "gone.trace")
        for words in ((gone, both[0]), (both[0], gone)):
            done = laconic("diff", *words)
            assert done.stdout.endswith(
                "\nno symbols of /nowhere/libgone.so: No such file or directory\n"
            )
            found = json.loads(laconic("diff", *words, "--json", "-").stdout)
            assert found["missing_symbols"] == {"/nowhere/libgone.so": "No such file or directory"}

    def test_a_trace_is_not_overwritten(self, both: tuple[str, str], tmp_path: Path) -> None:
        before = Path(both[1]).read_bytes()
        done = laconic("diff", *both, "--json", both[1])
        assert (done.returncode, done.stdout) == (
            2,
            "",
        ) and "is what is read: name another file" in done.stderr
        other = shutil.copy(both[1], tmp_path / "other.trace")
        done = laconic("diff", *both, "--json", other)
        assert (done.returncode, done.stdout) == (
            2,
            "",
        ) and "is a trace, and stays as it is" in done.stderr
        assert Path(both[1]).read_bytes() == before

    def test_broken_suppressions(self, both: tuple[str, str], tmp_path: Path) -> None:
        rules = tmp_path / "rules.toml"
        rules.write_text('[[suppress]]\ncall = "mmap"\nwho = 3\n')
        done = laconic("diff", *both, "--suppressions", rules)
        assert (done.returncode, done.stdout) == (2, "")
        assert "line 3, column 1" in done.stderr


def test_a_program_that_is_run_is_the_second_trace(both: tuple[str, str], tmp_path: Path) -> None:
    """Its trace is named by its command line, and kept it is the second of the two."""
    kept = tmp_path / "now.trace"
    done = laconic(
        "diff",
        both[0],
        "--keep",
        kept,
        "--json",
        tmp_path / "a.json",
        "--",
        "sh",
        "-c",
        "echo a; exit 4",
    )
    assert (done.returncode, done.stdout) == (4, "a\n")
    headline, names, report = done.stderr.split("\n\n", 2)
    assert names.endswith("\nafter:  sh -c 'echo a; exit 4'")
    again = laconic("diff", both[0], kept).stdout.split("\n\n", 2)
    assert (again[0], again[2]) == (headline, report)
    live, later = (json.loads(text) for text in (
        (tmp_path / "a.json").read_text(), laconic("diff", both[0], kept, "--json", "-").stdout
    ))  # fmt: skip
    assert live | {"second": ""} == later | {"second": ""}


def test_numbers_are_never_cut() -> None:
    """Where six numbers do not fit beside each other, they stand below each other."""
    big = 10**15
    first = RunFigures(
        "a", KeyTally(big, 0, big), by_call={"remap_file_pages": KeyTally(big, 0, big)}
    )
    second = RunFigures(
        "b", KeyTally(big, big, 0), by_call={"remap_file_pages": KeyTally(big, big, 0)}
    )
    text = as_text(diff(first, second))
    assert max(map(len, text.splitlines())) <= 80
    headline, _, rest = text.partition("\n\n")
    assert headline.count("1,000,000,000,000,000") == 2
    assert rest.count("1,000,000,000,000,000") == 10


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("grow", "grow"),
        ("libx.so+0x1f", "libx.so+?"),
        ("operator+", "operator+"),
        ("[jit]", "[jit]"),
    ],
)
def test_addresses_are_no_names(function: str, expected: str) -> None:
    assert key_of("mmap", function, "libx.so", "prog").function == expected
