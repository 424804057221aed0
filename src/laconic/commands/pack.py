"""laconic pack: a trace with its symbols in it."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from laconic.commands.options import add_json
from laconic.errors import LaconicError
from laconic.trace.words import plural

if TYPE_CHECKING:
    from laconic.trace import Trace
    from laconic.trace.packing import Packed

DESCRIPTION = """\
Adds symbols to a trace: function, file and line of every frame that it holds,
so that another machine shows the same names. To be done where the program ran,
as long as its libraries, and the perf maps of its JIT code in /tmp, are there.
"""
EPILOG = """\
examples:
  laconic pack a.trace
  laconic pack a.trace -o packed.trace
  laconic pack a.trace --json packed.json

Without -o the trace itself is replaced, once the new one is complete.

exit codes: 0, also where some modules have no symbols; 2 a trace that cannot
be read or packed, a file that cannot be written
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `pack`."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.add_argument("trace", metavar="FILE", help="a trace that was recorded or imported")
    parser.add_argument(
        "-o", "--output", metavar="OUT", help="write to OUT, and leave FILE as it is"
    )
    parser.add_argument("--force", action="store_true", help="overwrite OUT if it exists")
    add_json(parser, "what was found and what is missing")
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Write the trace; report what was added, and which modules have no symbols, and why."""
    from laconic.commands.output import check_outputs, is_same_file, open_output, write_json
    from laconic.commands.progress import progress
    from laconic.commands.traces import open_trace, tell_loss
    from laconic.report.pack import as_json
    from laconic.trace.packing import symbols_of

    out = options.output
    if options.force and out is None:
        raise LaconicError("--force overwrites the file that -o names: add -o OUT, or leave it out")
    trace = open_trace(options.trace)
    check_outputs({"-o": out, "--json": options.json}, [trace.path])
    if out is None and trace.path == "-":
        raise LaconicError(
            "standard input cannot be replaced; name the packed trace with -o, as in  -o "
            "packed.trace"
        )
    if out is not None and is_same_file(out, trace.path):
        raise LaconicError(
            f"-o {out!r} is the trace itself: leave -o out, and it is packed in its place"
        )
    if out not in (None, "-") and os.path.exists(out) and not options.force:
        raise LaconicError(f"-o {out!r} exists already: name another file, or give --force")
    output = open_output(options.json)
    with progress(f"reading {options.trace}", trace.size) as update:
        packed = symbols_of(trace, None, update)
    tell_loss(trace)
    if out is None and trace.loss:
        raise LaconicError(
            f"{trace.path!r} is not complete, and stays as it is: -o OUT packs what there is of it"
        )
    if out is not None:
        _write(trace, packed, out, options.force)
    elif packed.rows:
        _replace(trace, packed)
    written = out or (trace.path if packed.rows else None)
    if output is not None:
        write_json(as_json(packed, trace.path, written), output, options.json)
    _tell(packed, out or trace.path, out is not None)
    return 0


def _write(trace: Trace, packed: Packed, path: str, force: bool) -> None:
    from laconic.commands.progress import progress
    from laconic.trace.packing import write

    with progress(f"writing {path}", trace.size) as update:
        try:
            write(trace, packed, path, force=force, progress=update)
        except OSError as error:
            raise LaconicError(
                f"{path!r} could not be written, {error.strerror}, and what there was of it has "
                "been removed: free some space, or name another place with -o"
            ) from None


def _replace(trace: Trace, packed: Packed) -> None:
    # The trace is never incomplete: the new one is renamed when it is complete.
    path = os.path.realpath(trace.path)
    if not os.access(os.path.dirname(path), os.W_OK):
        raise LaconicError(
            f"{path!r} cannot be replaced, its directory cannot be written: name another place "
            "with -o"
        )
    new = f"{path}.{os.getpid()}.new"
    _write(trace, packed, new, False)
    os.chmod(new, os.stat(path).st_mode & 0o7777)
    os.replace(new, path)


def _tell(packed: Packed, path: str, copied: bool) -> None:
    from laconic.commands.output import tell, width
    from laconic.report.names import filled

    columns = width(2)

    def say(text: str) -> None:
        tell("\n".join(filled(f"laconic: {text}", columns)) + "\n")

    if packed.added:
        new = len(packed.added)
        say(
            f"wrote {path}: symbols of {plural(new, 'module')} were added; {packed.named:,} of "
            "their frames have a name"
        )
    else:
        say(f"{f'wrote {path}' if copied else f'{path} stays as it is'}: {_nothing(packed)}")
    for module, why in packed.missing:
        say(f"no symbols of {module.path}: {why}")
    for module, (what, why) in sorted(packed.partial.items()):
        say(f"no {what} of {module.path}: {why}")


def _nothing(packed: Packed) -> str:
    if packed.already:
        return f"the symbols of {plural(packed.already, 'module')} are in it already"
    if packed.frames:
        return "none of its modules has symbols here"
    if packed.texts:
        return "its stacks are words already, as the log has them"
    return "it holds no stacks: record with  laconic run -o FILE --stacks all"
