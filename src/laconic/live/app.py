"""The view of `laconic live`: a textual app on a `Model`."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.widgets import DataTable, Footer, Log, Sparkline, Static

from laconic.analysis.live import Model, Process, Site
from laconic.report.live import shortened, size

#: What the tables hold, by what they are sorted by: the key's order, largest first where True.
SITE_ORDERS: dict[str, tuple[Callable[[Site], Any], bool]] = {
    "now": (lambda site: (site.rate, site.total), True),
    "total": (lambda site: (site.total, site.rate), True),
    "name": (lambda site: site.key[1:], False),
}
PROCESS_ORDERS: dict[str, tuple[Callable[[Process], Any], bool]] = {
    "pid": (lambda process: process.pid, False),
    "memory": (lambda process: process.mapped, True),
    "vmas": (lambda process: process.vmas or 0, True),
}
#: Rows of a table, and points of the curve.
ROWS, POINTS = 100, 240
_CONTROL = re.compile(
    r"\x1b\[[0-9;:?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b.|[\x00-\x08\x0b-\x1f\x7f]"
)


class LiveApp(App[None]):
    """Shows a program while it runs.

    `drain` brings the model up to date; `output` gives what the program has written since the last
    time, None where that goes elsewhere; `interrupt` passes a signal on to the program. The app
    ends when the view is left, which ends nothing else.
    """

    TITLE = "laconic live"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #figures { height: auto; max-height: 6; padding: 0 1; }
    #curve { height: 2; margin: 0 1; }
    #sites { height: 2fr; min-height: 4; }
    #processes { height: 1fr; min-height: 4; }
    #output { height: 1fr; min-height: 3; border-top: solid $foreground-muted; border-title-color: $text-muted; }
    """
    BINDINGS: ClassVar[list[Any]] = [
        Binding("q", "leave", "leave"),
        Binding("p", "pause", "pause"),
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
        model: Model,
        command: Sequence[str],
        delay: float = 1.0,
        drain: Callable[[], None] = lambda: None,
        output: Callable[[], list[str]] | None = None,
        interrupt: Callable[[int], None] = lambda number: None,
    ) -> None:
        super().__init__()
        self.model = model
        self.command = printable(" ".join(command))
        self.delay = delay
        self.drain = drain
        self.output = output
        self.interrupt = interrupt
        self.paused = self.backwards = self.ended = False
        self.by, self.processes_by = "now", "pid"
        self.points: list[float] = []

    def compose(self) -> ComposeResult:
        """Figures, curve, sites, processes, output."""
        yield Static(id="figures", markup=False)
        yield Sparkline(self.points, id="curve", summary_function=max)
        sites: DataTable[Text] = DataTable(id="sites", cursor_type="row", zebra_stripes=True)
        processes: DataTable[Text] = DataTable(
            id="processes", cursor_type="row", zebra_stripes=True
        )
        yield sites
        yield processes
        if self.output is not None:
            yield Log(id="output", max_lines=1000)
        yield Footer()

    def on_mount(self) -> None:
        """Begins to show."""
        self.table("sites").add_columns(
            *map(_right, ("redundant/s", "total")), "call", "function", "program"
        )
        self.table("processes").add_columns(
            *map(_right, ("pid", "threads", "VMAs", "mapped")), "process"
        )
        if self.output is not None:
            self.query_one("#output", Log).border_title = "output"
        self.set_interval(min(self.delay, 0.2), self.poll)
        self.set_interval(self.delay, self.beat)
        self.beat()

    def table(self, name: str) -> DataTable[Text]:
        """One of the tables, "sites" or "processes"."""
        return self.query_one(f"#{name}", DataTable)

    def poll(self) -> None:
        """Takes what has come, so that no pipe runs full; shows the program's output."""
        self.drain()
        if self.output is not None:
            lines = self.output()
            if lines:
                self.query_one("#output", Log).write_lines([printable(line) for line in lines])
        if self.model.failure:
            self.exit()
        elif self.model.status is not None and not self.ended:
            self.ended = True
            self.beat()

    def beat(self) -> None:
        """Shows the model as it is now, but for the time in which the display is paused."""
        if self.paused:
            return
        self.drain()
        self.model.beat()
        self.points = [*self.points[1 - POINTS :], self.model.rates.calls]
        self.query_one("#curve", Sparkline).data = self.points
        self.show()

    def show(self) -> None:
        """Fills everything anew."""
        self.query_one("#figures", Static).update(self.figures())
        key, largest = SITE_ORDERS[self.by]
        sites = sorted(self.model.sites(), key=key, reverse=largest != self.backwards)
        _fill(self.table("sites"), [_site_row(site) for site in sites[:ROWS]])
        order, most = PROCESS_ORDERS[self.processes_by]
        processes = sorted(self.model.processes, key=order, reverse=most != self.backwards)
        _fill(self.table("processes"), [_process_row(process) for process in processes[:ROWS]])

    def figures(self) -> str:
        """The lines at the top."""
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
        return (
            f"{first}{shortened(self.command, self.size.width - 2 - len(first))}\n"
            f"calls/s {rates.calls:,.0f}  host calls/s {rates.host_calls:,.0f}  "
            f"redundant {rates.redundant:,.0f}{share}   "
            f"in all {calls:,}, {host_calls:,}, {redundant:,}\n"
            f"processes {len(model.processes):,} of {model.ever:,}  threads {threads:,}  mapped {size(model.mapped)}  "
            f"VMAs {vmas:,}{f'  suppressed {hidden:,}' if hidden else ''}"
        )

    # Keys

    def action_leave(self) -> None:
        """The view ends, and nothing else."""
        self.exit()

    def action_pause(self) -> None:
        """The display stands still, or goes on."""
        self.paused = not self.paused
        self.query_one("#figures", Static).update(self.figures())
        if not self.paused:
            self.beat()

    def action_sites(self, by: str) -> None:
        """Sorts the sites."""
        self.by = by
        self.show()

    def action_processes(self, by: str) -> None:
        """Sorts the processes; once more: by pid."""
        self.processes_by = "pid" if self.processes_by == by else by
        self.show()

    def action_reverse(self) -> None:
        """The other way round."""
        self.backwards = not self.backwards
        self.show()

    def action_interrupt(self) -> None:
        """What the terminal would do, were it not the view's."""
        self.interrupt(signal.SIGINT)


def printable(text: str) -> str:
    """A program's output without what would move the cursor or change colours."""
    return _CONTROL.sub("", text.encode("utf-8", "replace").decode("utf-8"))


def _right(text: str) -> Text:
    return Text(text, justify="right")


def _site_row(site: Site) -> tuple[Text, ...]:
    key = site.key
    module = (
        f" ({key.module})" if key.module and not key.function.startswith(f"{key.module}+") else ""
    )
    names = (key.call, f"{key.function}{module}", os.path.basename(key.program))
    return (
        _right(f"{site.rate:,.0f}"),
        _right(f"{site.total:,}"),
        *(Text(printable(name)) for name in names),
    )


def _process_row(process: Process) -> tuple[Text, ...]:
    vmas = "?" if process.vmas is None else f"{process.vmas:,}"
    numbers = (str(process.pid), f"{process.threads:,}", vmas, size(process.mapped))
    return (*map(_right, numbers), Text(printable(process.name)))


def _fill(table: DataTable[Text], rows: Sequence[tuple[Text, ...]]) -> None:
    # What the cursor stands on, and what is scrolled to, stays.
    cursor, x, y = table.cursor_row, table.scroll_x, table.scroll_y
    table.clear()
    for row in rows:
        table.add_row(*row)
    table.move_cursor(row=min(cursor, len(rows) - 1), scroll=False)
    table.scroll_to(x, y, animate=False, force=True)
