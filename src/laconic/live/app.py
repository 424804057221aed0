"""The view of `laconic live`: a textual app on a `LiveModel`."""

from __future__ import annotations

import io
import os
import re
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, ClassVar, TextIO

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Log, Sparkline, Static

from laconic.analysis.callers import AROUND, SITE
from laconic.analysis.live import LiveModel, LiveProcess, LiveSite
from laconic.report import numbers
from laconic.report.live import cost, label, shortened, size

#: The sort orders of the tables: the key, and True for the largest first.
SITE_ORDERS: dict[str, tuple[Callable[[LiveSite], Any], bool]] = {
    "cost": (lambda site: (site.cost.middle, site.rate, site.total), True),
    "now": (lambda site: (site.rate, site.total), True),
    "total": (lambda site: (site.total, site.rate), True),
    "name": (lambda site: (site.kind != SITE, *site.key[1:]), False),
}
PROCESS_ORDERS: dict[str, tuple[Callable[[LiveProcess], Any], bool]] = {
    "pid": (lambda process: process.pid, False),
    "memory": (lambda process: process.mapped, True),
    "vmas": (lambda process: process.vmas or 0, True),
}
#: The maximum number of rows of a table, and of points of the curve.
ROWS, POINTS = 100, 240
#: The maximum number of columns for the name of a site.
SITE_WIDTH = 48
HELP = """\
Keys
  C            sort sites by cost in an enclave
  P, T, N      sort sites by redundant calls per second, by redundant calls, by name
  M, V         sort processes by memory, by VMAs; once more: by pid
  R            reverse the order
  p            pause the display; the program continues
  Tab, arrows  go to the next table; move in it
  Ctrl-C       interrupt the program; a view of --connect is left
  q            leave; the program continues
  ?            show or hide this page

Terms
  call         a memory call that the program makes: mmap, mprotect, munmap, brk ...
  host call    a call that reached the kernel
  redundant    the call succeeded and changed nothing
  elided       the call needed no host call
  every-call   estimated cycles of the site in an SGX2 enclave if each call reaches
               the host, as in today's library OSes; with the first touches of its pages
  laconic      the same if only what changes reaches the host
  suppressed   what no one who uses the program can change, in one line per reason
  VMA          a range of memory with the same protection and backing
"""
_CONTROL = re.compile(
    r"\x1b\[[0-9;:?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b.|[\x00-\x08\x0b-\x1f\x7f]"
)


class LiveApp(App[None]):
    """Shows a program while it runs.

    `drain` brings the model up to date; `output` returns what the program has written since the
    last time, or None if its output goes elsewhere; `interrupt` passes a signal on to the program,
    or is None if another Laconic runs the program. The app ends when the view is left or its
    terminal is gone, which ends nothing else.
    """

    TITLE = "laconic live"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #figures { height: auto; max-height: 6; padding: 0 1; }
    #rates { height: 2; margin: 0 1; }
    #scale { width: auto; padding: 0 1 0 0; text-align: right; color: $text-muted; }
    #curve { width: 1fr; height: 2; }
    #sites { height: 2fr; min-height: 4; }
    #processes { height: 1fr; min-height: 4; }
    #output {
        height: 1fr; min-height: 3;
        border-top: solid $foreground-muted; border-title-color: $text-muted;
    }
    """
    BINDINGS: ClassVar[list[Any]] = [
        Binding("q", "leave", "leave"),
        Binding("p", "pause", "pause"),
        Binding("question_mark", "terms", "help", key_display="?"),
        Binding("C", "sites('cost')", "cost"),
        Binding("P", "sites('now')", "rate"),
        Binding("T", "sites('total')", "total"),
        Binding("N", "sites('name')", "name"),
        Binding("M", "processes('memory')", "memory"),
        Binding("V", "processes('vmas')", "VMAs"),
        Binding("R", "reverse", "reverse"),
        Binding("ctrl+c", "interrupt", "interrupt the program", show=False, priority=True),
        Binding("ctrl+q", "leave", "leave", show=False, priority=True),
    ]

    def __init__(
        self,
        model: LiveModel,
        command: Sequence[str],
        delay: float = 1.0,
        drain: Callable[[], None] = lambda: None,
        output: Callable[[], list[str]] | None = None,
        interrupt: Callable[[int], None] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.command = printable(" ".join(command))
        self.delay = delay
        self.drain = drain
        self.output = output
        self.interrupt = interrupt
        self.has_terminal = os.isatty(0)
        self.paused = self.backwards = self.ended = False
        self.by, self.processes_by = "cost", "pid"
        self.unit: numbers.Unit | None = None
        self.points: list[float] = []

    def compose(self) -> ComposeResult:
        """Yield figures, curve, sites, processes, output."""
        yield Static(id="figures", markup=False)
        with Horizontal(id="rates"):
            yield Static(id="scale", markup=False)
            yield Sparkline(self.points, id="curve", summary_function=max)
        sites: DataTable[Text] = DataTable(id="sites", cursor_type="row", zebra_stripes=True)
        processes: DataTable[Text] = DataTable(
            id="processes", cursor_type="row", zebra_stripes=True
        )
        yield sites
        yield processes
        if self.output is not None:
            yield OutputPane(id="output", max_lines=1000)
        yield Footer()

    def on_mount(self) -> None:
        """Start showing the model."""
        self.table("processes").add_columns(
            *map(_right, ("pid", "threads", "VMAs", "mapped")), "process"
        )
        if self.output is not None:
            self.query_one("#output", Log).border_title = "output"
        self.set_interval(min(self.delay, 0.2), self.poll)
        self.set_interval(self.delay, self.beat)
        self.beat()

    def table(self, name: str) -> DataTable[Text]:
        """Return one of the tables, "sites" or "processes"."""
        return self.query_one(f"#{name}", DataTable)

    def poll(self) -> None:
        """Read what has arrived, so that no pipe fills up; show the program's output."""
        self.drain()
        if self.output is not None:
            lines = self.output()
            if lines:
                self.query_one("#output", Log).write_lines([printable(line) for line in lines])
        if self.model.failure or (self.has_terminal and not os.isatty(0)):
            # If the terminal is gone, its end would be read again and again.
            self.exit()
        elif self.model.status is not None and not self.ended:
            self.ended = True
            self.beat()

    def beat(self) -> None:
        """Show the current state of the model, unless the display is paused."""
        if self.paused:
            return
        self.drain()
        self.model.beat()
        self.points = [*self.points[1 - POINTS :], self.model.rates.calls]
        self.query_one("#curve", Sparkline).data = self.points
        self.query_one("#scale", Static).update(self.scale())
        self.show()

    def scale(self) -> str:
        """Return the values at the curve's top and bottom, and the time that it shows."""
        seconds = (len(self.points) - 1) * self.delay
        return (
            f"{max(self.points):,.0f} calls/s\nlast {seconds:,.0f} s, from {min(self.points):,.0f}"
        )

    def show(self) -> None:
        """Fill everything again."""
        self.query_one("#figures", Static).update(self.figures())
        key, largest = SITE_ORDERS[self.by]
        sites = sorted(self.model.sites(), key=key, reverse=largest != self.backwards)
        unit = numbers.unit(site.cost.high for site in sites[:ROWS])
        self.name_columns(unit)
        _fill(self.table("sites"), [_site_row(site, unit) for site in sites[:ROWS]])
        order, most = PROCESS_ORDERS[self.processes_by]
        processes = sorted(self.model.processes, key=order, reverse=most != self.backwards)
        _fill(self.table("processes"), [_process_row(process) for process in processes[:ROWS]])

    def name_columns(self, unit: numbers.Unit) -> None:
        """Set the headings of the table of sites, whose costs are in `unit`."""
        if unit != self.unit:
            self.unit = unit
            table = self.table("sites")
            table.clear(columns=True)
            costs = f"every-call, {unit[1]} cycles" if unit[1] else "every-call, cycles"
            table.add_columns(*map(_right, (costs, "laconic")), "site")
            table.add_columns(*map(_right, ("calls", "redundant", "redundant/s")), "program")

    def figures(self) -> str:
        """Return the lines at the top."""
        model, rates = self.model, self.model.rates
        calls, host_calls, _, redundant = model.totals
        state = (
            "paused"
            if self.paused
            else "running"
            if model.status is None
            else f"exit status {model.status}"
        )
        share = f" ({100 * rates.redundant / rates.calls:.1f} %)" if rates.calls else ""
        threads = sum(process.threads for process in model.processes)
        vmas = sum(process.vmas or 0 for process in model.processes)
        hidden = sum(model.hidden.values())
        first = f"{model.time:,.1f} s, {state}: "
        enclave = cost(model)
        return (
            f"{first}{shortened(self.command, self.size.width - 2 - len(first))}\n"
            f"calls/s {rates.calls:,.0f}  host calls/s {rates.host_calls:,.0f}  redundant "
            f"{rates.redundant:,.0f}{share}   in all {calls:,}, {host_calls:,}, {redundant:,}\n"
            f"processes {len(model.processes):,} of {model.ever:,}  threads {threads:,}  mapped "
            f"{size(model.mapped)}  VMAs {vmas:,}{f'  suppressed {hidden:,}' if hidden else ''}"
            + (f"\n{enclave}" if enclave else "")
        )

    # Keys

    def action_leave(self) -> None:
        """End the view, and nothing else."""
        self.exit()

    def action_pause(self) -> None:
        """Pause or resume the display."""
        self.paused = not self.paused
        self.query_one("#figures", Static).update(self.figures())
        if not self.paused:
            self.beat()

    def action_sites(self, by: str) -> None:
        """Sort the sites."""
        self.by = by
        self.show()

    def action_processes(self, by: str) -> None:
        """Sort the processes; pressed again: by pid."""
        self.processes_by = "pid" if self.processes_by == by else by
        self.show()

    def action_reverse(self) -> None:
        """Reverse the order."""
        self.backwards = not self.backwards
        self.show()

    def action_interrupt(self) -> None:
        """Send the signal that the terminal would send if the view did not use it."""
        if self.interrupt is None:
            self.exit()
        else:
            self.interrupt(signal.SIGINT)

    def action_terms(self) -> None:
        """Show keys and terms."""
        self.push_screen(Terms())


class OutputPane(Log):
    """The program's output. While its end is visible, it stays visible, even if the size
    changes."""

    following = True

    def watch_scroll_y(self, old: float, new: float) -> None:
        """Note whether the end is visible, after scrolling or new lines."""
        super().watch_scroll_y(old, new)
        self.following = self.is_vertical_scroll_end

    def on_resize(self) -> None:
        """Scroll to the end, which a new size has moved."""
        if self.following:
            self.scroll_end(animate=False, immediate=True)


class Terms(ModalScreen[None]):
    """A page with the keys and the terms."""

    CSS = """
    Terms { align: center middle; }
    #terms { width: auto; max-width: 100%; height: auto; max-height: 100%; padding: 0 1;
             background: $surface; border: solid $foreground-muted; }
    """
    BINDINGS: ClassVar[list[Any]] = [
        Binding("question_mark,escape,q", "dismiss", "close"),
    ]

    def compose(self) -> ComposeResult:
        """Yield the page."""
        with VerticalScroll(id="terms", can_focus=True):
            yield Static(HELP, markup=False)


class TerminalOutput(io.TextIOBase):
    """A terminal that may go away: what is written to it afterwards is lost.

    textual's thread would end with the first write that fails, and the app would then wait for it
    forever.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        """Write a text; return its length."""
        with suppress(OSError):
            self._file.write(text)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        with suppress(OSError):
            self._file.flush()

    def fileno(self) -> int:
        """Return the terminal's file descriptor."""
        return self._file.fileno()

    def isatty(self) -> bool:
        """Return whether the terminal is still there."""
        return self._file.isatty()


def printable(text: str) -> str:
    """Return a program's output without the characters that would move the cursor or change
    colors."""
    return _CONTROL.sub("", text.encode("utf-8", "replace").decode("utf-8"))


def _right(text: str) -> Text:
    return Text(text, justify="right")


def _site_row(site: LiveSite, unit: numbers.Unit) -> tuple[Text, ...]:
    cost = site.cost
    costs = (
        numbers.span(cost.low, cost.high, unit),
        numbers.span(cost.left_low, cost.left_high, unit),
    )
    figures = (
        f"{max(site.calls, site.total):,}" if site.kind != AROUND else "",
        f"{site.total:,}" if site.kind == SITE else "",
        f"{site.rate:,.0f}" if site.kind == SITE else "",
    )
    return (
        *map(_right, costs),
        Text(shortened(printable(label(site)), SITE_WIDTH)),
        *map(_right, figures),
        Text(printable(os.path.basename(site.key.program))),
    )


def _process_row(process: LiveProcess) -> tuple[Text, ...]:
    vmas = "?" if process.vmas is None else f"{process.vmas:,}"
    numbers = (str(process.pid), f"{process.threads:,}", vmas, size(process.mapped))
    return (*map(_right, numbers), Text(printable(process.name)))


def _fill(table: DataTable[Text], rows: Sequence[tuple[Text, ...]]) -> None:
    # The row under the cursor, and the scroll position, are kept.
    cursor, x, y = table.cursor_row, table.scroll_x, table.scroll_y
    table.clear()
    for row in rows:
        table.add_row(*row)
    table.move_cursor(row=min(cursor, len(rows) - 1), scroll=False)
    table.scroll_to(x, y, animate=False, force=True)
