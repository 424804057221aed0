"""The view of `laconic live` and its lines, on a model that is fed by hand."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import signal
import struct
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from laconic.analysis.baseline import Key
from laconic.analysis.live import LiveModel, LiveNames
from laconic.analysis.suppressions import Suppression
from laconic.commands.live import _has_view
from laconic.report.live import as_json, ending, label, line
from laconic.trace.schema import CODES, FRAME
from laconic.trace.stacks import Stacks
from tests.helpers.commandline import laconic
from tests.tracer.lab import environment


def message(
    at: float,
    mprotect: tuple[int, int, int],
    sites: dict[int, int],
    *,
    failed: int = 0,
    **more: Any,
) -> dict[str, Any]:
    """What the tracing process says: `sites` are stacks with their redundant calls so far; of the
    elided calls of `mprotect` (calls, host calls, elided calls), `failed` failed."""
    calls = {"mprotect": (*mprotect, mprotect[2] - failed), "brk": (10, 8, 2, 2)}
    found: dict[str, Any] = {
        "time": at, "by_call": calls, "ever": 3, "rows": [],
        "processes": [(70, "prog", 2, 5 << 20, 40), (71, "\x1b[31mred", 1, 9 << 30, None),
                      (72, "child", 1, 4096, 90)],
        "sites": [("mprotect", stack, "/bin/prog", count) for stack, count in sites.items()],
    }  # fmt: skip
    message: dict[str, Any] = json.loads(json.dumps(found | more))
    return message


def stack_rows(count: int) -> list[tuple[int, int, str]]:
    """Rows of `count` stacks of one frame each, in a module without a file."""
    about = {
        "kind": "file",
        "path": "/gone/libgrow.so",
        "build_id": "00",
        "size": 0,
        "mtime": 0,
        "pid": 0,
    }
    frames = b"".join(FRAME.pack(1 << 2 | 2, 0x1000 + number) for number in range(count))
    rows = [(CODES["module"], 1, json.dumps(about).encode()), (CODES["frames"], 0, frames)]
    rows += [(CODES["site"], number, struct.pack("<I", number)) for number in range(count)]
    return [(event, number, data.decode("latin-1")) for event, number, data in rows]


def model() -> LiveModel:
    """A model of one second, in which stack 0 made 30 redundant calls and stack 1 made 90; names
    are found at once."""
    stacks = Stacks()
    made = LiveModel(names=LiveNames(stacks, apart=False), stacks=stacks)
    made.take(message(0.5, (0, 0, 0), {}))
    made.beat()
    made.take(message(1.5, (1000, 880, 120), {0: 30, 1: 90}, rows=stack_rows(3)))
    made.beat()
    return made


class TestModel:
    """Rates from beat to beat, sums since the start."""

    def test_rates(self) -> None:
        one = model()
        assert (one.rates.calls, one.rates.host_calls, one.rates.elided) == (1000, 880, 120)
        assert one.totals == (1010, 888, 122, 122)
        one.take(message(2.0, (1400, 1280, 120), {}))
        one.beat()
        assert (one.rates.calls, one.rates.elided) == (800, 0)
        one.beat()  # no time has passed: nothing changes
        assert one.rates.calls == 800

    def test_sites_of_one_function_are_put_together(self) -> None:
        """Both frames are of a module without symbols, whose addresses are no names."""
        one = model()
        assert [site[:4] for site in one.sites()] == [
            (Key("mprotect", "libgrow.so+?", "libgrow.so", "prog"), 120, 120.0, True)
        ]
        one.take(message(3.5, (2000, 1800, 200), {2: 80}))
        one.beat()
        assert [(site.total, site.rate) for site in one.sites()] == [(200, 40.0)]

    def test_names_come_later(self) -> None:
        """Until they are known the site is there all the same."""
        released: list[bool] = []

        class Slow(Stacks):
            def walk(self, number: int) -> Any:
                while not released:
                    time.sleep(0.01)
                return super().walk(number)

        stacks = Slow()
        one = LiveModel(names=LiveNames(stacks), stacks=stacks)
        one.take(message(1.5, (9, 0, 9), {0: 9}, rows=stack_rows(1)))
        one.beat()
        assert [(site.key.function, site.named) for site in one.sites()] == [("…", False)]
        released.append(True)
        deadline = time.monotonic() + 20
        while not one.sites()[0].named:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert one.sites()[0].key.function == "libgrow.so+?"

    @pytest.mark.parametrize("apart", [False, True])
    def test_suppressed_sites_are_counted_and_not_shown(self, apart: bool) -> None:
        """However many hidden places make more calls than those that are shown."""
        stacks = Stacks()
        rules = [
            Suppression("mine", "mprotect", module="libgrow.so"),
            Suppression("never", function="nowhere"),
        ]
        one = LiveModel(names=LiveNames(stacks, rules, apart), stacks=stacks)
        one.take(message(1, (999, 0, 999), dict.fromkeys(range(250), 4), rows=stack_rows(250)))
        one.take(message(2, (999, 0, 999), {}) | {"sites": [("madvise", 3, "/bin/prog", 1)]})
        one.beat()
        one.settle()
        assert [(site.key.call, site.total, site.named) for site in one.sites()] == [
            ("madvise", 1, True)
        ]
        assert one.hidden == {"mine": 1000}
        text = " ".join(ending(one).split())
        assert "1,000 redundant calls are suppressed (--no-suppressions shows where)." in text
        found = as_json(one, ["prog"])
        assert (found["hidden"], [site["redundant"] for site in found["sites"]]) == (
            {"mine": 1000},
            [1],
        )
        assert found["missing_symbols"] == {"/gone/libgrow.so": "No such file or directory"}

    def test_failed_calls_are_not_redundant(self) -> None:
        """Calls that the bookkeeping refuses need no host call, and are not redundant."""
        one = model()
        one.take(message(2.5, (2000, 880, 1120), {0: 30, 1: 90}, failed=1000))
        one.beat()
        assert (one.rates.elided, one.rates.redundant) == (1000, 0)
        assert "0.0 % redundant" in line(one, 200)
        assert as_json(one, ["x"])["by_call"]["mprotect"] == {
            "calls": 2000, "host_calls": 880, "elided": 1120, "redundant": 120,
        }  # fmt: skip

    def test_the_json_has_every_site(self) -> None:
        """Of more places than the view looks at, too."""
        stacks = Stacks()
        one = LiveModel(names=LiveNames(stacks, apart=False), stacks=stacks)
        one.take(message(1, (999, 0, 999), {}, rows=stack_rows(1)))
        one.take(
            message(1, (999, 0, 999), {})
            | {"sites": [("brk", 0, f"/bin/{n}", n) for n in range(1, 251)]}
        )
        assert len(one.sites()) == 200
        assert [site["redundant"] for site in as_json(one, ["x"])["sites"]] == list(
            range(250, 0, -1)
        )

    def test_costs(self) -> None:
        """Sites in the order of `callers`; what is suppressed is one line per reason, and rules
        about redundant calls hide no cost."""
        stacks = Stacks()
        rules = [
            Suppression("loading", "mmap", module="libgrow.so"),
            Suppression("break", "brk", module="libgrow.so", only_redundant=True),
        ]
        one = LiveModel(names=LiveNames(stacks, rules, apart=False), stacks=stacks, rules=rules)
        one.take(message(1.5, (1000, 880, 120), {0: 30, 1: 90}, rows=stack_rows(3)))
        sites = [
            ["mprotect", 0, "/bin/prog", 40, 30, 100, 300, 1, 3],
            ["mprotect", 1, "/bin/prog", 90, 90, 200, 400, 0, 0],
            ["mmap", 0, "/bin/prog", 5, 0, 5000, 5002, 9, 9],
            ["mmap", 2, "/bin/prog", 6, 0, 1, 1, 1, 1],
            ["brk", 1, "/bin/prog", 7, 6, 90, 92, 9, 9],
        ]
        around = [["load", 600, 600, 6, 6]]
        known = {"time": 1.4, "behind": 0, "stopped": "", "sites": sites, "around": around}
        one.take({"costs": known})
        shown = [(label(site), site.calls, site.total, site.cost) for site in one.sites()]
        assert shown == [
            ("loading (suppressed)", 11, 0, (5001, 5003, 10, 10)),
            ("Loading the program (no call)", 0, 0, (600, 600, 6, 6)),
            ("mprotect libgrow.so+?", 130, 120, (300, 700, 1, 3)),
            ("brk libgrow.so+?", 7, 0, (90, 92, 9, 9)),
        ]
        assert one.cost == (5991, 6395, 26, 28)
        found = as_json(one, ["x"])
        assert [site["redundant"] for site in found["sites"]] == [120, 0]
        assert found["cycles"]["every-call"] == {"low": 5991, "high": 6395}
        assert "In an enclave 5.99–6.39 k cycles under every-call" in " ".join(ending(one).split())
        one.take({"costs": {**known, "sites": [], "around": [], "stopped": "too fast"}})
        assert "up to 1.4 s: too fast" in " ".join(ending(one).split())

    def test_the_end_and_a_failure(self) -> None:
        one = model()
        one.take(message(2.0, (1, 1, 0), {}, end={"status": 7, "notes": ["a note"]}))
        assert (one.status, one.notes, one.failure) == (7, ["a note"], "")
        one.take({"failed": "it is not there", "status": 127})
        assert (one.status, one.failure) == (127, "it is not there")


class TestLines:
    """What stands in for the view in a log."""

    def test_a_line(self) -> None:
        whole = (
            "1.5 s: 1,000 calls/s, 880 host calls/s, 12.0 % redundant; 9.0 GiB in 3 processes; "
            "mprotect libgrow.so+? in prog"
        )
        assert line(model(), 100) == whole[:99] + "…"
        assert line(LiveModel(), 80) == "0.0 s: 0 calls/s, 0 host calls/s; 0 B in 0 processes"

    @pytest.mark.parametrize("scale", [1, 10**6, 10**9])
    def test_it_fits_and_no_number_is_cut(self, scale: int) -> None:
        one = model()
        one.take(message(2.5, (1000 + 5 * scale, 880 + 4 * scale, 120 + scale), {0: 30 + scale}))
        one.beat()
        text = line(one)
        assert len(text) <= 80
        assert f"{5 * scale:,} calls/s, {4 * scale:,} host calls/s, 20.0 % redundant" in text

    def test_the_sentence_at_the_end(self) -> None:
        one = model()
        one.notes.append("a 32-bit program " * 8)
        text = ending(one)
        assert " ".join(text.split()).startswith(
            "laconic: 1,010 memory calls in 3 processes: 888 host calls, 122 elided (12.1 %). "
            "note: a"
        )
        assert max(map(len, text.splitlines())) <= 80


class TestView:
    """The app, driven by textual's pilot."""

    @staticmethod
    def drive(steps: Callable[[Any, Any], Awaitable[None]], **options: Any) -> Any:
        """Runs the app without a terminal, 80 by 24; it beats only when `steps` says so."""
        pytest.importorskip("textual")
        from laconic.live.app import LiveApp

        app = LiveApp(
            options.pop("model", None) or model(), ["prog", "a\x1b[0m"], 3600.0, **options
        )

        async def run() -> None:
            async with app.run_test(size=(80, 24)) as pilot:
                await pilot.pause()
                await steps(app, pilot)

        asyncio.run(run())
        return app

    @staticmethod
    def column(app: Any, table: str, number: int) -> list[str]:
        """A column of a table, as it is shown."""
        shown = app.table(table)
        return [str(shown.get_row_at(row)[number]) for row in range(shown.row_count)]

    def two_sites(self) -> LiveModel:
        """The second is quicker now, the first made more in all; their names are the other way
        round."""
        one = model()
        for call, first, second in (("madvise", 500, 501), ("brk", 3, 30)):
            one.take(
                message(one.time + 1, (1000, 880, 120), {})
                | {"sites": [(call, 2, "/bin/prog", first)]}
            )
            one.beat()
            one.take(
                message(one.time + 1, (1000, 880, 120), {})
                | {"sites": [(call, 2, "/bin/prog", second)]}
            )
        one.beat()
        return one

    def test_the_view_shows_its_parts(self) -> None:
        async def steps(app: Any, pilot: Any) -> None:
            text = app.figures()
            assert (
                "calls/s 1,000  host calls/s 880  redundant 120 (12.0 %)   in all 1,010, 888, 122"
                in text
            )
            assert "processes 3 of 3  threads 4  mapped 9.0 GiB  VMAs 130" in text
            assert "running: prog a" in text
            assert self.column(app, "sites", 5) == ["120"]
            assert self.column(app, "sites", 2) == ["mprotect libgrow.so+?"]
            assert self.column(app, "processes", 4) == ["prog", "red", "child"]
            assert self.column(app, "processes", 2) == ["40", "?", "90"]
            drawn = app.export_screenshot()
            for _ in range(200):  # the foot is drawn when the rest has been
                if "reverse" in drawn or ">&#160;R&#160;<" in drawn:
                    break
                await pilot.pause(0.05)
                drawn = app.export_screenshot()
            assert "libgrow.so+?" in drawn
            for key in "qpCPTNMVR?":
                assert f">&#160;{key}&#160;<" in drawn, f"{key} does not stand at the foot"

        self.drive(steps)

    def test_sorting(self) -> None:
        async def steps(app: Any, pilot: Any) -> None:
            calls = [f"{call} libgrow.so+?" for call in ("brk", "madvise", "mprotect")]
            assert self.column(app, "sites", 2) == calls
            await pilot.press("T")
            assert self.column(app, "sites", 4) == ["501", "120", "30"]
            await pilot.press("R")
            assert self.column(app, "sites", 4) == ["30", "120", "501"]
            await pilot.press("R", "P")
            assert self.column(app, "sites", 2) == calls
            await pilot.press("N")
            assert sorted(self.column(app, "sites", 2)) == calls
            await pilot.press("M")
            assert self.column(app, "processes", 0) == ["71", "70", "72"]
            await pilot.press("V")
            assert self.column(app, "processes", 0) == ["72", "70", "71"]
            await pilot.press("V")
            assert self.column(app, "processes", 0) == ["70", "71", "72"]

        self.drive(steps, model=self.two_sites())

    def test_pause_stops_the_display_and_nothing_else(self) -> None:
        async def steps(app: Any, pilot: Any) -> None:
            await pilot.press("p")
            assert "paused" in app.figures()
            app.model.take(message(2.5, (3000, 880, 2120), {0: 2030}))
            app.beat()
            assert self.column(app, "sites", 5) == ["120"]
            await pilot.press("p")
            assert self.column(app, "sites", 5) == ["2,000"]
            assert "paused" not in app.figures()

        self.drive(steps)

    def test_q_leaves_and_ends_nothing(self) -> None:
        sent: list[int] = []

        async def steps(app: Any, pilot: Any) -> None:
            await pilot.press("ctrl+c")
            assert app.is_running
            await pilot.press("q")
            await pilot.pause()
            assert not app.is_running

        self.drive(steps, interrupt=sent.append)
        assert sent == [signal.SIGINT]

    def test_the_end_of_the_program(self) -> None:
        """The view stays, for a person to read; but not where the program could not be run."""

        async def stays(app: Any, pilot: Any) -> None:
            app.drain = lambda: app.model.take(
                message(2, (1, 1, 0), {}, end={"status": 3, "notes": []})
            )
            app.poll()
            await pilot.pause()
            assert app.is_running
            assert "exit status 3" in app.figures()

        async def leaves(app: Any, pilot: Any) -> None:
            app.drain = lambda: app.model.take({"failed": "gone", "status": 127})
            app.poll()
            await pilot.pause()
            assert not app.is_running

        self.drive(stays)
        self.drive(leaves)

    def test_output_has_a_pane(self) -> None:
        """Nothing in it moves the cursor or colours anything."""
        lines = [["plain", "\x1b[31mred\x1b[0m [bold]x[/]\x07", "\x1b]0;title\x07bar\tend"]]

        async def steps(app: Any, pilot: Any) -> None:
            app.poll()
            await pilot.pause()
            shown = list(app.query_one("#output").lines)
            assert shown[:3] == ["plain", "red [bold]x[/]", "bar\tend"]

        self.drive(steps, output=lambda: lines.pop() if lines else [])

    def test_the_end_of_the_output_stays_in_view(self) -> None:
        """After a resize too; but not if somebody has scrolled back."""
        lines = [[f"line {number}" for number in range(200)]]

        async def steps(app: Any, pilot: Any) -> None:
            app.poll()
            await pilot.pause()
            pane = app.query_one("#output")
            for height in (40, 18, 60, 24):
                await pilot.resize_terminal(80, height)
                await pilot.pause()
                assert pane.is_vertical_scroll_end, height
            pane.scroll_to(y=3, animate=False, immediate=True)
            await pilot.pause()
            await pilot.resize_terminal(80, 40)
            await pilot.pause()
            assert pane.scroll_y == 3

        self.drive(steps, output=lambda: lines.pop() if lines else [])

    def test_the_curve_has_a_scale(self) -> None:
        async def steps(app: Any, pilot: Any) -> None:
            app.delay = 2.0
            app.model.take(message(2.5, (6005, 880, 2120), {}))
            app.beat()
            assert app.scale() == "5,005 calls/s\nlast 2 s, from 1,000"
            assert "5,005" in app.export_screenshot()

        self.drive(steps)

    def test_costs_are_shown_with_their_unit(self) -> None:
        one = model()
        site = ["mprotect", 0, "/bin/prog", 40, 30, 2.1e9, 3.25e9, 1e6, 2e6]
        costs = {"time": 1.5, "behind": 0, "stopped": "", "sites": [site], "around": []}
        one.take({"costs": costs})

        async def steps(app: Any, pilot: Any) -> None:
            heads = [str(column.label) for column in app.table("sites").columns.values()]
            assert heads[:3] == ["every-call, G cycles", "laconic", "site"]
            assert self.column(app, "sites", 0) == ["2.10–3.25"]
            assert "in an enclave 2.10–3.25 G cycles under every-call" in app.figures()
            app.model.take({"costs": {**costs, "sites": [[*site[:5], 5e6, 5e6, 0, 0]]}})
            app.beat()
            await pilot.pause()
            heads = [str(column.label) for column in app.table("sites").columns.values()]
            assert heads[0] == "every-call, M cycles"
            assert self.column(app, "sites", 0) == ["5.00"]

        self.drive(steps, model=one)

    def test_a_page_of_keys_and_terms(self) -> None:
        async def steps(app: Any, pilot: Any) -> None:
            await pilot.press("?")
            await pilot.pause()
            drawn = app.screen_stack[-1].query_one("#terms Static").render()
            assert "every-call" in str(drawn) and "redundant" in str(drawn)
            app.beat()  # the display goes on behind it
            await pilot.press("?")
            await pilot.pause()
            assert len(app.screen_stack) == 1

        self.drive(steps)

    def test_ctrl_c_leaves_a_view_of_another_program(self) -> None:
        async def steps(app: Any, pilot: Any) -> None:
            await pilot.press("ctrl+c")
            await pilot.pause()
            assert not app.is_running

        self.drive(steps)

    def test_without_a_pane(self) -> None:
        async def steps(app: Any, pilot: Any) -> None:
            assert not app.query("#output")

        self.drive(steps)


class TestCommand:
    """Options, and when there is a view."""

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ((), "no command was given"),
            (("--",), "no command was given"),
            (("true",), "live -- true"),
            (("true", "--", "true"), "no command was given"),
            (("--delay", "0", "--", "true"), "'0' is not a time"),
            (("--delay", "soon", "--", "true"), "'soon' is not a time"),
            (("--delay", "nan", "--", "true"), "'nan' is not a time"),
            (("--program-output", "missing/x", "--", "true"), "missing/x"),
            (("--json", "missing/x", "--", "true"), "missing/x"),
            (("-o", "missing/x", "--", "true"), "missing/x"),
            (("--force", "--", "true"), "name it with -o TRACE"),
            (("--suppressions", "missing.toml", "--", "true"), "missing.toml"),
            (("--frobnicate", "--", "true"), "--frobnicate"),
        ],
    )
    def test_bad_input(self, words: tuple[str, ...], message: str, tmp_path: Path) -> None:
        done = laconic("live", *words, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr

    def test_without_textual_it_is_named(
        self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(os, "isatty", lambda fd: True)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        assert not _has_view()
        assert "pip install 'laconic-mm[live]'" in capfd.readouterr().err

    def test_without_a_terminal_there_is_no_view(
        self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("TERM", "xterm")
        for terminals in ((), (0,), (2,), (1, 2)):
            monkeypatch.setattr(os, "isatty", lambda fd, terminals=terminals: fd in terminals)
            assert not _has_view()
        monkeypatch.setattr(os, "isatty", lambda fd: True)
        monkeypatch.setenv("TERM", "dumb")
        assert not _has_view()
        assert capfd.readouterr().err == ""

    def test_no_escape_codes_in_a_pipe(self) -> None:
        done = laconic(
            "live",
            "--",
            "true",
            env=environment(FORCE_COLOR="1", TERM="xterm-256color", COLUMNS="200"),
        )
        assert done.returncode == 0
        assert "\x1b" not in done.stdout + done.stderr
        assert max(map(len, done.stderr.splitlines())) <= 80
