"""laconic live: a program's memory calls while it runs."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from laconic.commands.listening import DEFAULT, add_listen
from laconic.commands.options import accept_command, add_json, add_suppressions, suppressions
from laconic.errors import LaconicError

if TYPE_CHECKING:
    from laconic.analysis.live import LiveModel
    from laconic.commands.output import Output
    from laconic.live.child import Child
    from laconic.live.remote import Remote
    from laconic.tracer.record import Recorder

DESCRIPTION = """\
Runs CMD and all that it starts as laconic run does, and shows meanwhile: calls,
host calls and redundant calls per second; the sites by their cost in an
enclave; the processes and their memory. If standard input or standard error is
not a terminal, it writes one line a second to standard error. --connect shows a
program that runs in another terminal under laconic live --listen, or laconic
run --listen.
"""
EPILOG = """\
examples:
  laconic live -- python3 -m http.server 7777 --bind 127.0.0.1
  laconic live --program-output server.log -- redis-server --port 7777
  laconic live --lines --json sums.json -o make.trace -- make -j2
  laconic run --listen -- redis-server --port 7777
  laconic live --connect

keys, as in top:
  q           leave the view: the program goes on; its sums follow at its end
  p           pause the display, and go on
  C, P, T, N  sort sites by cost, by redundant calls per second, by redundant
              calls, by name
  M, V        sort processes by memory, by VMAs; once more: by pid
  R           the other way round
  Ctrl-C      interrupt the program
  ?           show the keys and the terms

The view needs textual; use pip install 'laconic-mm[live]'. In the view, the
program's input is empty, and a pane shows what the program writes to the
terminal. Closing the view prints the last 1,000 lines of that output;
--program-output sends all of it to a file instead.

--listen publishes what is shown, for laconic live --connect: at a Unix socket
in $XDG_RUNTIME_DIR, at the path ADDRESS, or at a port of this machine (ADDRESS
is tcp:PORT). Only the same user can connect. A viewer can read, and nothing
else; it can come and go, and the program does not wait for it.

-o records a trace, with the stacks of all calls; --json writes the sums
at the end. What laconic.toml hides, and what ld.so and the C library do in
every program, is counted and not shown: laconic callers --help.

exit codes: the program's own (128 + N where signal N killed it); 2 a wrong
option; 71, 126, 127 as laconic run
"""
#: Signals that the view itself needs.
_OF_THE_VIEW = (signal.SIGWINCH, signal.SIGCONT)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `live`."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.usage = (
        "laconic live [--program-output FILE] [--delay SECONDS] [--lines]\n"
        "                    [--suppressions FILE | --no-suppressions]\n"
        "                    [--json FILE] [-o TRACE [--force]]\n"
        "                    [--listen [ADDRESS]] -- CMD [ARG ...]\n"
        "       laconic live --connect [ADDRESS] [--delay SECONDS] [--lines]\n"
        "                    [--suppressions FILE | --no-suppressions] [--json FILE]"
    )
    parser.add_argument(
        "words", nargs="*", metavar="CMD", help="the program and its arguments, after --"
    )
    parser.add_argument(
        "--program-output",
        metavar="FILE",
        help="write the program's standard output and error to FILE",
    )
    parser.add_argument(
        "--delay",
        type=_delay,
        default=1.0,
        metavar="SECONDS",
        help="time between two looks (default: 1)",
    )
    parser.add_argument("--lines", action="store_true", help="no view: a line each time")
    add_suppressions(parser)
    add_json(parser, "the sums, and all sites, at the end")
    parser.add_argument("-o", "--output", metavar="TRACE", help="record a trace")
    parser.add_argument("--force", action="store_true", help="overwrite the trace that -o names")
    add_listen(parser)
    parser.add_argument(
        "--connect",
        nargs="?",
        const=DEFAULT,
        metavar="ADDRESS",
        help="show a program that another Laconic runs with --listen",
    )
    accept_command(parser)
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Run the program; return its exit status. With --connect, watch a program; return 0, or 1 if
    the connection ended before the program."""
    if options.connect is not None:
        return _watch(options)
    from laconic.analysis.live import LiveModel
    from laconic.commands.listening import start_hub
    from laconic.commands.output import (
        check_outputs,
        open_output,
        spare_traces,
    )
    from laconic.live.child import Child
    from laconic.tracer.signals import RELAYED, SignalRelay, signal_set

    if options.words and options.command is None:
        raise LaconicError(
            f"a program's name goes after --, as in  laconic live -- {options.words[0]}"
        )
    if options.words or not options.command:
        raise LaconicError(
            "no command was given: name a program, as in  laconic live -- python3 -V"
        )
    if options.force and options.output is None:
        raise LaconicError("--force is about a trace: name it with -o TRACE")
    if options.output == "-":
        raise LaconicError(
            "-o - cannot be standard output, which is the program's here; name a file, or use  "
            "laconic run -o - -- CMD"
        )
    check_outputs(
        {"-o": options.output, "--program-output": options.program_output, "--json": options.json}
    )
    if options.program_output is not None:
        spare_traces("--program-output", options.program_output)
    rules = suppressions(options)
    output = open_output(options.json)
    view = not options.lines and _has_view()
    # Create the child before any thread: it must have only one.
    relay = SignalRelay(options.command, RELAYED & ~signal_set(_OF_THE_VIEW))
    model = LiveModel(rules=rules)
    hub = start_hub(options.command, options.listen, view=True)
    try:
        child = Child(
            options.command,
            _places(options.program_output, view),
            view,
            _record(options),
            mask=relay.mask_before,
            hub=hub,
        )
        relay.start(lambda info: relay.send(child.pid, info))
        if view:
            _view(child, model, options, options.command)
            child.pass_through(1 if os.isatty(1) else 2)
        else:
            _lines(child, model, options.delay)
        status = child.wait(model)
    finally:
        relay.stop()
    _report(model, options, options.command, output)
    return status


def _report(
    model: LiveModel, options: argparse.Namespace, command: Sequence[str], output: Output | None
) -> None:
    # Print the final report.
    from laconic.commands.output import tell, width, write_json
    from laconic.report.live import as_json, ending

    if model.failure:
        tell(f"laconic: {model.failure}\n")
        return
    if model.rules or output is not None:
        model.settle(every=output is not None)
    if output is not None:
        write_json(as_json(model, command), output, options.json, program=True)
    tell(ending(model, width(2)))


def _watch(options: argparse.Namespace) -> int:
    from laconic.analysis.live import LiveModel
    from laconic.commands.output import check_outputs, open_output
    from laconic.live.remote import Remote

    for option, value in (
        ("--listen", options.listen),
        ("--program-output", options.program_output),
        ("-o", options.output),
        ("--force", options.force or None),
        ("a program", options.command or options.words or None),
    ):
        if value is not None:
            raise LaconicError(
                f"--connect shows a program that runs already; leave out {option}, or --connect"
            )
    check_outputs({"--json": options.json})
    rules = suppressions(options)
    view = not options.lines and _has_view()
    remote = Remote(options.connect)
    output = open_output(options.json)
    model = LiveModel(rules=rules)
    try:
        if view:
            _view(remote, model, options, remote.command)
        else:
            _lines(remote, model, options.delay)
            remote.drain(model)
    except KeyboardInterrupt:
        pass  # the user leaves the view
    if model.status is not None:
        _report(model, options, remote.command, output)
        return 1 if model.failure else 0
    if output is not None:
        from laconic.commands.output import write_json
        from laconic.report.live import as_json

        write_json(as_json(model, remote.command), output, options.json, program=True)
    return 0


def _record(options: argparse.Namespace) -> Callable[[], Recorder] | None:
    # The watching process captures the stacks.
    from laconic.commands.program import recorder_for

    if options.output is None:
        return None
    return partial(
        recorder_for,
        options.command,
        "laconic",
        options.output,
        force=options.force,
        redact=False,
        stacks="none",
    )


def _has_view() -> bool:
    # True if there is a terminal to draw on, and textual is installed.
    import importlib.util

    from laconic.commands.output import tell

    if not (os.isatty(0) and os.isatty(2)) or os.environ.get("TERM", "dumb") == "dumb":
        return False
    if importlib.util.find_spec("textual") is None:
        tell(
            "laconic: the view needs textual; use pip install 'laconic-mm[live]'. Until then, one "
            "line per update\n"
        )
        return False
    return True


def _places(path: str | None, view: bool) -> dict[int, int | None]:
    # Return the replacements of the program's standard output and error, if they differ from
    # Laconic's own; None: the pane.
    if path is not None:
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise LaconicError(
                f"--program-output {path!r} cannot be written, {error.strerror}: name another file"
            ) from None
        return {1: fd, 2: fd}
    if not view:
        return {}
    # A stream that does not go to the terminal is unchanged: laconic live -- CMD >FILE.
    return {fd: None for fd in (1, 2) if os.isatty(fd)}


def _view(
    source: Child | Remote, model: LiveModel, options: argparse.Namespace, command: Sequence[str]
) -> None:
    from laconic.live.app import LiveApp, TerminalOutput
    from laconic.live.child import Child

    child = source if isinstance(source, Child) else None
    pane = child is not None and options.program_output is None
    app = LiveApp(
        model,
        command,
        options.delay,
        lambda: source.drain(model),
        child.fresh if child is not None and pane else None,
        child.kill if child is not None else None,
    )
    terminal = sys.__stderr__
    assert terminal is not None
    try:
        # textual writes to this name, which mypy takes for a constant.
        sys.__stderr__ = TerminalOutput(terminal)  # type: ignore[assignment, misc]
        app.run()
    finally:
        sys.__stderr__ = terminal  # type: ignore[misc]


def _lines(source: Child | Remote, model: LiveModel, delay: float) -> None:
    from laconic.commands.output import tell, width
    from laconic.report.live import line

    shown = 0.0
    due = time.monotonic() + delay
    while model.status is None and source.alive():
        time.sleep(max(min(due - time.monotonic(), 0.1), 0.01))
        source.drain(model)
        if time.monotonic() >= due and model.status is None:
            due += delay
            if model.time == shown:
                continue  # it is starting, or has ended and its last calls are being replayed
            shown = model.time
            model.beat()
            tell(f"{line(model, width(2))}\n")


def _delay(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time: name seconds, from 0.1 to 3600")
    return seconds
