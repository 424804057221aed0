"""laconic attach: a running program, observed and left as it was."""

from __future__ import annotations

import argparse
import re
import signal
import time
from typing import TYPE_CHECKING, Any

from laconic.commands.options import add_recording, limit, whole
from laconic.commands.output import check_outputs
from laconic.commands.program import recorder_for
from laconic.errors import LaconicError
from laconic.trace.words import plural

if TYPE_CHECKING:
    from laconic.tracer.attach import Attachment
    from laconic.tracer.record import Recorder

DESCRIPTION = """\
Observes a process that is running already, with its threads, its descendants
and all that they start. Its memory calls reach the kernel as it makes them;
Laconic counts them and, with -o, records them. Ctrl-C, --for and --until-size
end this, and the program goes on. If Laconic is killed, it goes on too.
"""

EPILOG = """\
examples:
  laconic attach 4711
  laconic attach 4711 --for 30s -o server.trace
  laconic attach 4711 --until-size 100M -o server.trace
  laconic attach "$(pidof -s redis-server)" --for 2m --json figures.json

exit codes:
  0    the program was left running, or has ended
  2    a wrong option or PID; the trace could not be written to its end
  70   --verify found bookkeeping and host to differ
  71   the process may not be traced: laconic doctor
"""

#: Signals that end the observation unless Laconic was started to ignore them, and signals that must
#: not stop Laconic, because the program would wait for it at its next call.
_ENDING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT}
_STOPPING = {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
#: Seconds between two checks of the trace and the program.
_PERIOD = 0.05


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `attach`."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.add_argument("pid", type=_process_id, metavar="PID", help="the process")
    parser.add_argument("-o", "--output", metavar="FILE", help="record a trace")
    add_recording(parser)
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE, as JSON")
    parser.add_argument(
        "--verify",
        choices=("off", "exit", "call"),
        default="off",
        help="compare bookkeeping with the kernel's maps at the end, or after every memory call",
    )
    parser.add_argument("--quiet", action="store_true", help="print no table")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="with --verify: print the complete maps"
    )
    parser.set_defaults(execute=execute)


def _process_id(text: str) -> int:
    try:
        return whole("process id")(text)
    except argparse.ArgumentTypeError as error:
        if not re.fullmatch(r"[\w.-]*[A-Za-z][\w.-]*", text, re.ASCII):
            raise
        raise argparse.ArgumentTypeError(
            f'{text!r} is not a process id: name one, as in  laconic attach "$(pidof -s {text})"'
        ) from error


def execute(options: argparse.Namespace) -> int:
    """Observe the process; return the exit code."""
    from laconic.tracer.attach import check

    if options.output is None and (options.force or options.redact or options.stacks):
        raise LaconicError("--force, --redact and --stacks are about a trace: name it with -o FILE")
    check_outputs({"-o": options.output, "--json": options.json})
    limit(options)
    options.pid = check(options.pid)
    # Before any thread or process is started, because each of them must block these signals.
    ending = {number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN}
    blocked = ending | _STOPPING | {signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        return _observe(options, ending)
    finally:
        while signal.sigtimedwait(blocked - before, 0) is not None:
            pass  # it has had its effect
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _observe(options: argparse.Namespace, ending: set[signal.Signals]) -> int:
    from laconic.commands.output import announce, open_output, tell, width, write_json
    from laconic.commands.progress import waiting
    from laconic.linux.pal import only_changes
    from laconic.linux.proc import command_line
    from laconic.memory.ledger import Ledger
    from laconic.report.run import as_json, as_text
    from laconic.tracer.attach import Attachment
    from laconic.tracer.mediate import Mediator
    from laconic.tracer.process import command_name
    from laconic.tracer.verify import Checker

    output = open_output(options.json)
    ledger = Ledger(announce=None if options.quiet else announce)
    checker = Checker(ledger, options.verify, options.verbose)
    command, name = command_line(options.pid), command_name(options.pid)
    recorder = _recorder(options, command)
    mediator = Mediator(
        only_changes, ledger, checker, observe=True, recorder=recorder, attached=True
    )
    attachment = Attachment(mediator, options.pid, waiting)
    reason, seconds = _wait(attachment, options, ending, name, recorder)
    goes_on = attachment.processes() > 0
    what = f"{name} (process {options.pid})"
    if goes_on:
        ledger.note(f"{what} was running before, and goes on: left after {seconds:.1f} s, {reason}")
    else:
        ledger.note(f"{what} was running before, and ended after {seconds:.1f} s")
    if recorder is not None:
        recorder.finish(None, ledger, seconds, options.verify)

    figures: dict[str, Any] = as_json(ledger, command, None, "observe", options.verify, seconds)
    figures["attached"] = {
        "pid": options.pid,
        "goes_on": goes_on,
        "stopped_seconds": round(attachment.held, 6),
    }
    if output is not None:
        write_json(figures, output, options.json)
    if not options.quiet:
        tell(as_text(figures, width(2)))
    if recorder is not None and (recorder.failure is not None or not options.quiet):
        tell(_recorded(recorder))
    if checker.mismatch is not None:
        tell(
            f"laconic: bookkeeping and host differ, {ledger.mismatches} of {ledger.checks} checks "
            "failed.\n"
            f"The first: {checker.mismatch}\n"
            "This is a defect of Laconic: please report it with the lines above.\n"
        )
        return 70
    return 0 if recorder is None or recorder.failure is None else 2


def _recorder(options: argparse.Namespace, command: list[str]) -> Recorder | None:
    if options.output is None:
        return None
    return recorder_for(
        command,
        "observe",
        options.output,
        force=options.force,
        redact=options.redact,
        stacks=options.stacks or "all",
        limit=limit(options),
        pid=options.pid,
    )


def _wait(
    attachment: Attachment,
    options: argparse.Namespace,
    ending: set[signal.Signals],
    name: str,
    recorder: Recorder | None,
) -> tuple[str, float]:
    # Observe until something ends the observation; return its cause and the seconds.
    from laconic.commands.output import tell

    attachment.start()
    if recorder is not None:
        recorder.start()
    began, announced, reason = time.monotonic(), options.quiet, ""
    while not attachment.ended():
        came = signal.sigtimedwait(ending, _PERIOD)
        if reason:
            continue
        if attachment.attached.is_set() and not announced:
            announced = True
            threads = len(attachment.tracer.threads)
            tell(
                f"laconic: attached to process {options.pid} ({name}), {plural(threads, 'thread')} "
                f"in {plural(attachment.processes(), 'process', 'processes')}; "
                "Ctrl-C leaves it running\n"
            )
        if came is not None:
            reason = f"by {signal.Signals(came.si_signo).name}"
        elif recorder is not None and recorder.broken:
            reason = "as the trace could not be written"
        elif recorder is not None and recorder.limit_reached:
            reason = recorder.limit_reached
        elif options.seconds is not None and time.monotonic() - began >= options.seconds:
            reason = f"after {options.seconds:g} s (--for)"
        if reason:
            attachment.leave()
    try:
        attachment.finish()
    except BaseException:
        if recorder is not None:
            recorder.discard() if not attachment.attached.is_set() else recorder.stop()
        raise
    return reason, time.monotonic() - began


def _recorded(recorder: Recorder) -> str:
    import shlex

    path = shlex.quote(recorder.path)
    if recorder.failure is not None:
        return (
            f"laconic: -o {path} {recorder.outcome}; free some space, or name a place with more\n"
        )
    return (
        f"laconic: {recorder.written:,} events in {path}; next:\n"
        f"  laconic callers {path}\n  laconic compare {path}\n  laconic advise {path}\n"
        f"  laconic html {path} -o report.html\n"
    )
