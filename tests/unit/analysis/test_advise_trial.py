"""Trying advice: what is run, what counts as a difference, and how it is told."""

from __future__ import annotations

from pathlib import Path

import pytest

import laconic.analysis.advise.advice
from laconic.analysis.advise import advisor, trial
from laconic.analysis.advise.advice import Advice, argument
from laconic.analysis.advise.figures import TODAY, AdviceFigures
from laconic.analysis.advise.watch import MIB
from laconic.report import advise as report
from tests.helpers.adviseprograms import PROFILE, RW, Program, hotspot, measured, settings
from tests.helpers.traces import BASE


class TestTrying:
    def advice(self) -> list[Advice]:
        return [
            laconic.analysis.advise.advice.variable("X", "1", "why"),
            laconic.analysis.advise.advice.argument("-Xmx8m", ("java",), "why"),
            Advice("sgx.max_threads", "sgx.max_threads = 4", "manifest", "why"),
        ]

    def test_how_each_is_tried(self) -> None:
        variable, flag, option = self.advice()
        assert trial.attempt(variable, ["a", "b"], {"Y": "2"}) == (["a", "b"], {"X": "1", "Y": "2"})
        java = ["/usr/bin/java", "-jar", "x"]
        assert trial.attempt(flag, java, {}) == (["/usr/bin/java", "-Xmx8m", "-jar", "x"], {})
        refused = trial.attempt(flag, ["sh", "java"], {})
        assert isinstance(refused, str) and "does not begin with java" in refused
        assert isinstance(trial.attempt(option, ["a"], {}), str)

    @pytest.mark.parametrize(
        ("words", "left"),
        [
            ("-Xmx1g Main", "Main"),
            ("-cp . -Xmx1g -XX:+UseG1GC Main", "-cp . -XX:+UseG1GC Main"),
            ("-Xms512m -Xss1m Main -Xmx2g", "-Xss1m Main -Xmx2g"),
            ("-jar a.jar -Xmx1g", "-jar a.jar -Xmx1g"),
            ("", ""),
        ],
    )
    def test_a_flag_replaces_its_like(self, words: str, left: str) -> None:
        """Of two the last would count: nothing would be tried. What follows the program's name is
        the program's."""
        flag = argument("-Xmx8m", ("java",), "why", ("-Xmx", "-Xms"))
        assert trial.attempt(flag, ["java", *words.split()], {}) == (
            ["java", "-Xmx8m", *left.split()],
            {},
        )

    def test_one_collector_takes_the_place_of_another(self, tmp_path: Path) -> None:
        """A JVM with two does not start."""
        trace = Program(tmp_path, "/usr/bin/java")
        serial = settings(trace.touched(*hotspot(trace)))["-XX:+UseSerialGC"]
        assert trial.attempt(serial, ["java", "-XX:+UseG1GC", "A"], {}) == (
            ["java", "-XX:+UseSerialGC", "A"],
            {},
        )

    def test_differences_are_reported(self, tmp_path: Path) -> None:
        (tmp_path / "one").mkdir()
        (tmp_path / "two").mkdir()
        first, second = Program(tmp_path / "one"), Program(tmp_path / "two")
        for trace in (first, second):
            trace.mmap(BASE, MIB, RW)
        second.program("/bin/next", ["next"])
        before, figures = measured(first.touched()), measured(second.cut())
        after = trial.after([before], 0, figures, 1, ["out of memory"])
        assert len(after.differences) == 4
        assert "exit status 1, 0 before (standard error: out of memory)" in after.differences[0]
        assert "2 programs ran, 1 before" in after.differences[1]
        assert "not ended in order" in after.differences[2]
        advice = self.advice()
        tried = trial.Trial("no place", {0: after, 1: "no reason"}, after)
        text = report.as_text(before, advice, PROFILE, tried)
        assert text.count("But: exit status 1") == 2 and "Not tried: no reason." in text
        assert "after one run as it is" in text and "together" in text
        shown = report.as_json(before, advice, PROFILE, None, ["a"], 0, tried)
        found = shown["advice"]
        assert found[0]["after"]["exit_status"] == shown["together"]["after"]["exit_status"] == 1
        assert (
            found[1]["not_tried"] == "no reason" and shown["unchanged"]["not_tried"] == "no place"
        )
        assert found[2]["after"] is found[2]["not_tried"] is None

    def test_as_many_programs_as_equal_runs_have(self, tmp_path: Path) -> None:
        """A script that waits for its server runs sleep as often as it must."""
        found = []
        for number in (9, 7, 6, 2):
            place = tmp_path / str(number)
            place.mkdir()
            trace = Program(place)
            for _ in range(number - 1):
                trace.program("/bin/sleep", ["sleep"])
            found.append(measured(trace.touched()))
        first, again, after, other = found
        assert "7 programs ran, 9 before" in trial.unchanged(first, 0, again, 0).differences
        assert not any(
            "ran" in output for output in trial.after([first, again], 0, after, 0).differences
        )
        assert (
            "2 programs ran, 7 to 9 before" in trial.after([first, again], 0, other, 0).differences
        )

    def rounds(self, place: Path, times: int) -> AdviceFigures:
        """The figures of a program that maps and unmaps so often."""
        place.mkdir()
        trace = Program(place)
        for _ in range(times):
            trace.mmap(BASE, 16 * MIB, RW)
            trace.call("munmap", BASE, 16 * MIB)
        return measured(trace.touched())

    def test_a_rerun_that_brings_nothing_or_harm_is_said_to(self, tmp_path: Path) -> None:
        """One that maps and unmaps more costs more; the same again is no better; less is, and
        nothing is said."""
        first, same, more, less = (
            self.rounds(tmp_path / str(place), n) for place, n in enumerate((50, 50, 100, 10))
        )
        rise = f"it takes more cycles and host calls than before under {TODAY}"
        assert trial.after([first], 0, same, 0).differences == [
            "no measured figure is better than before"
        ]
        assert trial.after([first], 0, more, 0).differences == [rise]
        assert trial.after([first], 0, less, 0).differences == []

    def test_a_difference_of_two_equal_runs_is_not_a_gain(self, tmp_path: Path) -> None:
        """100 and 120 rounds as it is: 85 and 135 say nothing; 60 does. The table shows both, and
        which is none."""
        runs = [self.rounds(tmp_path / str(times), times) for times in (100, 120)]
        again = trial.unchanged(runs[0], 0, runs[1], 0)
        assert again.differences == []
        advice = self.advice()[:1]
        for times, none in ((85, True), (135, True), (60, False)):
            after = trial.after(runs, 0, self.rounds(tmp_path / str(times), times), 0)
            assert ("no measured figure is better than before" in after.differences) is none
            text = " ".join(
                report.as_text(runs[0], advice, PROFILE, trial.Trial(again, {0: after})).split()
            )
            low, high = runs[0].costs[TODAY].host_calls[0], runs[1].costs[TODAY].host_calls[0]
            now = after.costs[TODAY].host_calls[0]
            suffix = " (no difference)," if none else ","
            assert f"{TODAY}: host calls {low:,.0f} to {high:,.0f} -> {now:,.0f}{suffix}" in text

    def test_a_manifest_that_does_not_do_for_the_rerun(self, tmp_path: Path) -> None:
        """With all settings the heap grows past what is advised for it: said, with the line that
        does."""
        (tmp_path / "one").mkdir()
        (tmp_path / "two").mkdir()
        first, second = Program(tmp_path / "one"), Program(tmp_path / "two")
        for trace, size in ((first, MIB), (second, 30 * MIB)):
            trace.call("brk", 0, result=0x555555556000)
            trace.call("brk", 0x555555556000 + size, result=0x555555556000 + size)
        advice = advisor.advise(measured(first.touched()), PROFILE)
        figures = measured(second.touched())
        output = ['sys.brk.max_size = "2M" is too small here: sys.brk.max_size = "32M"']
        assert trial.exceeded(advice, figures, PROFILE) == output
        assert trial.exceeded(advisor.advise(figures, PROFILE), figures, PROFILE) == []
