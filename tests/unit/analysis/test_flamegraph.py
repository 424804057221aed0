"""`laconic flamegraph`: what is in the stacks, the three formats, and bad input.

`LACONIC_GOLDEN=write` in the environment writes the golden files anew.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import pytest

import laconic.trace
from laconic.analysis.flamegraph import CALLS, CYCLES, HOST_CALLS, PAGES, Flame, Flames, flames
from laconic.analysis.sites import EVERY_CALL, sites
from laconic.analysis.suppressions import Suppression
from laconic.commands import main
from laconic.report.flamegraph import as_folded, as_speedscope, as_svg
from laconic.sgx import costs
from tests.helpers.pagetraces import HOSTILE, hostile, known
from tests.helpers.sitetraces import sited
from tests.helpers.traces import Builder, small
from tests.tracer.lab import COMMAND, environment

GOLDEN = Path(__file__).parent / "golden"
SVG = "{http://www.w3.org/2000/svg}"
PLAN = {"grow": (9874, 127), "inner": (3, 1), "a;b<c>": (1, 0), "0x4711": (2, 0)}


def fixed() -> Flames:
    """Stacks that no replay made: inlined, JIT, one line of a function and two, a name that would
    end a frame."""
    program, call = Flame("/bin/prog", kind="program"), Flame("mprotect", kind="call")
    main_ = Flame("main", "prog", "m.c", 3)
    return Flames(
        CALLS,
        True,
        {
            (program, main_, Flame("grow", "libx.so", "x.c", 12), call): 70,
            (program, main_, Flame("grow", "libx.so", "x.c", 15), call): 20,
            (program, main_, Flame("fold;<T>", "prog", "", 0, "inlined"), call): 8,
            (program, Flame("py::run \x1b[2J", "[jit]", kind="jit"), call): 2,
            (program, Flame("narrow", "prog"), call): 1,
        },
    )


def stacks(folded: str) -> dict[str, int]:
    """What any reader of folded stacks reads: the last space divides."""
    found = {}
    for line in folded.splitlines():
        stack, _, weight = line.rpartition(" ")
        found[stack] = int(weight)
    return found


class TestStacks:
    """What weighs how much."""

    def test_counts_are_exact(self, tmp_path: Path) -> None:
        found = sites(laconic.trace.open(sited(tmp_path / "a.trace", PLAN)), (EVERY_CALL,))
        made = stacks(as_folded(flames(found, CALLS, redundant=True)))
        front, back = "/opt/bin/prog;main;", ";mprotect"
        assert made == {
            f"{front}grow{back}": 9874,
            f"{front}inner{back}": 3,
            f"{front}a:b<c>{back}": 1,
            f"{front}libgrow.so+0x4711{back}": 2,
        }
        every = stacks(as_folded(flames(found, CALLS)))
        assert every[f"{front}grow{back}"] == 10001 and every["/opt/bin/prog;main;setup;mmap"] == 1
        assert sum(every.values()) == found.ledger.calls

    def test_weights(self, tmp_path: Path) -> None:
        """Host calls and cycles are those of the sites' figures."""
        found = sites(laconic.trace.open(known(tmp_path / "a.trace")), (EVERY_CALL,))
        profile = costs.load()
        counted = sum(
            site.wasted[EVERY_CALL].host_calls for site in found.sites if EVERY_CALL in site.wasted
        )
        assert flames(found, HOST_CALLS, redundant=True).total == counted > 0
        total = found.total()
        assert flames(found, HOST_CALLS).total == total.host_calls
        assert flames(found, PAGES).total == total.eaug > 0
        cycles = sum(profile.cycles(total)) / 2
        assert abs(flames(found, CYCLES, profile=profile).total - cycles) < len(found.sites) + 6

    def test_suppressions_and_calls_without_a_stack(self, tmp_path: Path) -> None:
        found = sites(laconic.trace.open(sited(tmp_path / "a.trace", PLAN)), (EVERY_CALL,))
        rules = [Suppression("mine", function="grow")]
        one = ("/opt/bin/prog;mine", 10001)
        assert one in stacks(as_folded(flames(found, CALLS, suppressions=rules))).items()
        made = flames(found, CALLS, redundant=True, suppressions=rules)
        assert (made.total, made.hidden, made.stackless) == (6, Counter({"mine": 9874}), 0)
        bare = sites(
            laconic.trace.open(sited(tmp_path / "b.trace", PLAN, stacks=False)), (EVERY_CALL,)
        )
        # Without their stacks all calls are one sequence, in which others change nothing.
        made = flames(bare, CALLS, redundant=True)
        assert stacks(as_folded(made)) == {"/opt/bin/prog;(no stack);mprotect": made.stackless}

    def test_none(self, tmp_path: Path) -> None:
        made = flames(
            sites(laconic.trace.open(sited(tmp_path / "a.trace", {"f": (0, 2)})), (EVERY_CALL,)),
            redundant=True,
        )
        assert as_folded(made) == ""
        assert json.loads(as_speedscope(made, "a", "1"))["profiles"][0]["endValue"] == 0
        assert "there are none" in as_svg(made)


class TestFormats:
    """Golden files, and what the tools that read them demand."""

    @pytest.mark.parametrize("kind", ["folded", "speedscope.json", "svg"])
    def test_golden(self, kind: str) -> None:
        golden = GOLDEN / f"flames.{kind}"
        made = {"folded": as_folded, "svg": as_svg}.get(
            kind, lambda one: as_speedscope(one, "a.trace", "1")
        )(fixed())
        if os.environ.get("LACONIC_GOLDEN") == "write":
            golden.write_text(made)
        assert made == golden.read_text()

    def test_speedscope(self) -> None:
        """The fields of a sampled profile: frames by number, as many weights as samples, and their
        sum at its end."""
        made = json.loads(as_speedscope(fixed(), "a.trace", "1"))
        assert made["$schema"] == "https://www.speedscope.app/file-format-schema.json"
        frames, (profile,) = made["shared"]["frames"], made["profiles"]
        assert set(profile) == {
            "type",
            "name",
            "unit",
            "startValue",
            "endValue",
            "samples",
            "weights",
        }
        assert profile["type"] == "sampled" and profile["unit"] == "none"
        assert len(profile["samples"]) == len(profile["weights"])
        assert sum(profile["weights"]) == profile["endValue"] - profile["startValue"] == 101
        for sample in profile["samples"]:
            names = [frames[number]["name"] for number in sample]
            assert (names[0], names[-1]) == ("/bin/prog", "mprotect")
        assert {"name": "grow (libx.so)", "file": "x.c", "line": 12} in frames
        assert all(set(frame) <= {"name", "file", "line", "col"} for frame in frames)

    def test_svg(self) -> None:
        """The root is on top. Boxes lie within the one above, are as wide as they weigh, and each
        has its whole name in a title."""
        root = ElementTree.fromstring(as_svg(fixed()))
        (script,) = root.iter(f"{SVG}script")
        assert script.text is not None and not script.attrib
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", as_svg(fixed()))
        boxes = {}
        for group in root.iter(f"{SVG}g"):
            title, rect = group.find(f"{SVG}title"), group.find(f"{SVG}rect")
            assert title is not None and title.text and rect is not None
            boxes[title.text] = tuple(float(rect.attrib[name]) for name in ("x", "y", "width"))
        width = 1200
        whole = boxes["all: 101 calls, 100.0 %"]
        assert whole[2] == width and whole[1] == min(y for _, y, _ in boxes.values())
        grow = boxes["grow (libx.so): 90 calls, 89.1 %"]  # of two lines, so that none is named
        above = boxes["main (prog) m.c:3: 98 calls, 97.0 %"]
        assert abs(grow[2] - 90 * width / 101) < 0.01 and grow[1] == above[1] + 18
        assert above[0] <= grow[0] and grow[0] + grow[2] <= above[0] + above[2] + 0.01
        assert "fold;<T> (prog) [inlined]: 8 calls, 7.9 %" in boxes
        assert any("\\x1b[2J" in name for name in boxes)

    def test_deeper_than_python(self) -> None:
        deep = tuple(Flame(f"f{level}", "m") for level in range(3000))
        assert as_svg(Flames(CALLS, False, {deep: 1})).count("<rect") == 3001

    @pytest.mark.parametrize("redundant", [False, True])
    def test_hostile_names(self, redundant: bool, tmp_path: Path) -> None:
        """They are text: one stack a line, JSON, well-formed XML, and no element of theirs."""
        hostile(tmp_path / "a.trace")
        path = str(tmp_path / "a.trace")
        made = flames(sites(laconic.trace.open(path), (EVERY_CALL,)), CALLS, redundant=redundant)
        assert made.total == len(HOSTILE) * (2 if redundant else 3)
        assert sum(stacks(as_folded(made)).values()) == made.total
        assert json.loads(as_speedscope(made, HOSTILE[0], "1"))["profiles"]
        elements = {
            element.tag.removeprefix(SVG) for element in ElementTree.fromstring(as_svg(made)).iter()
        }
        assert elements == {"svg", "desc", "style", "text", "g", "title", "rect", "script"}

    def test_the_same_bytes(self, tmp_path: Path) -> None:
        """With other seeds of hashes, zones and languages."""
        path = known(tmp_path / "a.trace")
        for to in ("folded", "speedscope", "svg"):
            made = []
            for seed, zone, language in (
                ("1", "Asia/Tokyo", "C"),
                ("2", "America/Lima", "de_DE.UTF-8"),
            ):
                words = [*COMMAND, "flamegraph", path, "--to", to, "-o", "-"]
                env = environment(PYTHONHASHSEED=seed, TZ=zone, LC_ALL=language)
                made.append(subprocess.run(words, capture_output=True, check=True, env=env).stdout)
            assert made[0] == made[1] != b""


class TestCommand:
    """Outputs, messages, exit codes."""

    def test_written(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        path, out = known(tmp_path / "a.trace"), tmp_path / "a.folded"
        calls = ["flamegraph", path, "--weight", "calls", "--to", "folded"]
        assert main([*calls, "--redundant", "-o", str(out)]) == 0
        assert stacks(out.read_text()) == {"/bin/prog;main;grow;mprotect": 6}
        shown = capfd.readouterr()
        assert (
            "redundant memory calls by stack, 6 calls in 1 stack" in " ".join(shown.err.split())
            and not shown.out
        )
        assert main([*calls, "-o", "-"]) == 0
        assert sum(stacks(capfd.readouterr().out).values()) == 12

    def test_bad_input(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        empty, there = tmp_path / "empty", tmp_path / "there"
        empty.write_bytes(b"")
        there.write_text("mine\n")
        path = small(tmp_path / "a.trace")
        out = str(tmp_path / "out")
        rules = tmp_path / "rules.toml"
        rules.write_text('[[suppress]]\nreason = "x"\ncolour = "red"\n')
        for words, output in (
            ([str(tmp_path / "none"), "-o", out], "cannot be read"),
            ([str(empty), "-o", out], "is empty"),
            ([path, "-o", str(there)], "exists already"),
            ([path, "-o", path, "--force"], "is the trace itself"),
            ([path, "-o", str(tmp_path / "no" / "place")], "cannot be written"),
            ([path, "-o", out, "--costs", "published", "--weight", "calls"], "leave out --weight"),
            ([path, "-o", out, "--suppressions", str(rules)], "line 3, column 1"),
            ([path, "-o", out, "--costs", "none"], "no such cost profile"),
        ):
            assert main(["flamegraph", *words, "--to", "svg"]) == 2
            shown = capfd.readouterr()
            assert output in shown.err and not shown.out
        assert there.read_text() == "mine\n" and not Path(out).exists()
        assert main(["flamegraph", path, "-o", str(there), "--force", "--to", "svg"]) == 0
        assert there.read_text().startswith("<svg")

    def test_missing_data_is_reported(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """A trace without stacks, one of nothing, one whose modules are not there."""
        from tests.helpers.explaintraces import unpacked

        out = str(tmp_path / "out")
        bare = sited(tmp_path / "bare.trace", PLAN, stacks=False)
        assert main(["flamegraph", bare, "--to", "folded", "-o", out]) == 0
        output = " ".join(capfd.readouterr().err.split())
        assert "calls have no stack: record with laconic run -o FILE --stacks all" in output
        nothing = Builder(tmp_path / "nothing.trace").end()
        assert (
            main(["flamegraph", nothing, "--redundant", "--to", "svg", "-o", out, "--force"]) == 0
        )
        assert "there are none" in Path(out).read_text()
        gone = unpacked(tmp_path / "gone.trace")
        assert main(["flamegraph", gone, "--to", "folded", "-o", out, "--force"]) == 0
        assert (
            "no symbols of /nowhere/libgone.so: No such file or directory" in capfd.readouterr().err
        )

    def test_json(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        """Beside a file or alone: the same stacks and weights, and what is hidden or has no
        name."""
        from tests.helpers.explaintraces import unpacked

        path, out, made = (
            known(tmp_path / "a.trace"),
            str(tmp_path / "a.folded"),
            tmp_path / "a.json",
        )
        assert (
            main(
                [
                    "flamegraph",
                    path,
                    "--weight",
                    "calls",
                    "--to",
                    "folded",
                    "-o",
                    out,
                    "--json",
                    str(made),
                ]
            )
            == 0
        )
        found = json.loads(made.read_text())
        assert {
            ";".join(frame["name"] for frame in stack["frames"]): stack["weight"]
            for stack in found["stacks"]
        } == stacks(Path(out).read_text())
        assert (found["schema"], found["redundant"], found["weight"], found["total"]) == (
            2,
            False,
            "calls",
            12,
        )
        capfd.readouterr()
        assert main(["flamegraph", unpacked(tmp_path / "gone.trace"), "--json", "-"]) == 0
        found = json.loads(capfd.readouterr().out)
        assert found["missing_symbols"] == {"/nowhere/libgone.so": "No such file or directory"}
        for words, output in (
            ([], "no file was named"),
            (["--to", "svg"], "--to and -o go together"),
            (["--json", str(made), "-o", out], "--to and -o go together"),
            (["--json", str(made), "--force"], "add -o OUT"),
            (["--json", "-", "--to", "svg", "-o", "-"], "would both write to standard output"),
        ):
            assert main(["flamegraph", path, *words]) == 2
            assert output in capfd.readouterr().err

    def test_a_full_disk(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        if not Path("/dev/full").exists():
            pytest.skip("there is no /dev/full")
        words = [*COMMAND, "flamegraph", known(tmp_path / "a.trace"), "--to", "svg", "-o", "-"]
        with open("/dev/full", "wb") as full:
            done = subprocess.run(
                words,
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
                env=environment(),
            )
        assert done.returncode == 2 and "standard output cannot be written" in done.stderr
