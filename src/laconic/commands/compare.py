"""laconic compare: what a trace, or a program, would cost under each strategy."""

from __future__ import annotations

import argparse
import os
import re
from typing import TYPE_CHECKING

from laconic.commands.enclaves import enclaves
from laconic.commands.options import (
    accept_source,
    add_costs,
    add_selection,
    check_kept,
    check_source,
    input_path,
    job_count,
    load_costs,
    selection,
)
from laconic.errors import LaconicError

if TYPE_CHECKING:
    from laconic.analysis.schemas import Json
    from laconic.libos.settings import Settings
    from laconic.sgx.costs import CostProfile
    from laconic.trace import Trace

DESCRIPTION = """\
Counts what the memory calls of a trace would come to in SGX2 enclaves, under
each strategy, and beside them the bound that no strategy can go below. With
-- CMD the program is run and recorded first, as by laconic run -o; its output
and exit status are its own, and the tables go to standard error.
"""

EPILOG = """\
examples:
  laconic compare a.trace
  laconic compare a.trace --by call --epc 128M
  laconic compare a.trace --strategy laconic --costs fast-transitions
  laconic compare a.trace --host linux --json figures.json
  laconic compare a.trace --manifest app.manifest --by call
  laconic compare --keep a.trace -- python3 -c 'import json'
  laconic compare --ablation a.trace b.trace

exit codes:
  0    done; a trace that is not complete counts up to where it ends
  2    a wrong option, or a file that cannot be read
  70   --verify found an enclave in which access is not as requested
  with -- CMD the program's own (126, 127: it cannot be executed, was not found)
"""

#: The suffixes of a size, and the powers of two that they represent.
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_PAGE_BITS = 12
HOSTS = ("sgx2", "linux", "gramine")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `compare`."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.usage = (
        "laconic compare [--host {sgx2,linux,gramine}] [--strategy NAME[,NAME]]\n"
        "                       [--costs NAME|FILE] [--epc SIZE] [--by {program,call}]\n"
        "                       [--pte {rwx,sync}] [--verify] [--manifest FILE]\n"
        "                       [--json FILE] [-j N] [--ablation]\n"
        "                       [--between START END] [--pid P] [--program PATTERN]\n"
        "                       [--call NAME]\n"
        "                       FILE [FILE ...] |\n"
        "                       [--keep TRACE [--force]] -- CMD [ARG ...]"
    )
    parser.add_argument(
        "--host",
        choices=HOSTS,
        default="sgx2",
        help="sgx2 (default): enclaves; linux: one system call for each call that needs one; "
        "gramine: the system calls of gramine-direct, Gramine's Linux PAL",
    )
    parser.add_argument(
        "--strategy",
        default="all",
        metavar="NAME[,NAME]",
        help="the strategies to show (default: all); every-call and the bound are always there, "
        "for the ratios",
    )
    add_costs(parser)
    parser.add_argument(
        "--pte",
        choices=("rwx", "sync"),
        default="rwx",
        help="how the host maps an enclave: rwx (default), once; sync, as the EPCM has it, at a "
        "host call a change. Strategies after an existing library OS or SDK map it as that "
        "does",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="carry the strict strategies (classify, laconic) out leaf by leaf on the modelled "
        "EPCM, and compare what is accessible with what was requested after every step; exit "
        "70 where they differ; slow",
    )
    parser.add_argument(
        "--manifest",
        metavar="FILE",
        help="a Gramine manifest: every-call and skip-equal take sys.stack.size, sys.brk.max_size "
        "and sgx.max_threads from it (default: Gramine's defaults)",
    )
    parser.add_argument(
        "--epc",
        metavar="SIZE",
        help="say under which strategies an EPC of this size (128M) overflows",
    )
    parser.add_argument(
        "--ablation",
        action="store_true",
        help="show instead which changes to Gramine pay off: the switches of every-call, added one "
        "by one in the order of what they save, down to the bound; docs/gramine.md has the "
        "size of each change, and its appendix where it belongs in Gramine and what must hold",
    )
    parser.add_argument(
        "--by",
        choices=("program", "call"),
        help="show also the counts and cycles of each program, or of each call",
    )
    parser.add_argument(
        "--json", metavar="FILE", help="write the figures to FILE as JSON; - is standard output"
    )
    parser.add_argument(
        "-j", dest="jobs", metavar="N", help="processes for a long trace (default: one a CPU)"
    )
    add_selection(parser)
    accept_source(parser, what="a trace; with --ablation, one or more; - is standard input")
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Compare, after recording CMD if there is one, whose exit status is returned."""
    from laconic.commands.output import open_output, tell, width, write_json
    from laconic.commands.source import selection_as_text
    from laconic.commands.traces import open_trace, show
    from laconic.report.compare import as_text

    _check_words(options)
    names = _names(options.strategy, options.host)
    profile = load_costs(options.costs) if options.host == "sgx2" else None
    pages = None if options.epc is None else epc_pages(options.epc)
    options.settings, options.has_edmm = _settings(options.manifest)
    options.selection = selection(options)
    if options.selection is not None and options.host != "sgx2":
        raise LaconicError(f"only enclaves count selected calls; leave out --host {options.host}")
    most = len(os.sched_getaffinity(0)) * 4
    options.jobs = None if options.jobs is None else min(job_count(options.jobs), most)
    if options.ablation:
        return _ablation(profile, options)
    trace = None if options.command is not None else open_trace(options.words[0])
    output = open_output(options.json)
    status = 0
    if trace is None:
        status, figures = _recorded(names, profile, pages, options)
    else:
        figures = _compared(trace, names, profile, pages, options)
    if figures and output is not None:
        write_json(figures, output, options.json, program=trace is None)
    if figures and trace is None:
        tell(selection_as_text(options.selection) + as_text(figures, width(2), options.by))
    elif options.json != "-":
        show(selection_as_text(options.selection) + as_text(figures, width(1), options.by))
    return 70 if any(found["breaches"] for found in figures.get("verify", {}).values()) else status


def _ablation(profile: CostProfile | None, options: argparse.Namespace) -> int:
    # As `execute`, for --ablation.
    from laconic.commands.output import open_output, tell, width, write_json
    from laconic.commands.program import recorded
    from laconic.commands.source import selection_as_text
    from laconic.commands.traces import open_trace, show
    from laconic.report.ablation import as_text

    assert profile is not None
    traces = [open_trace(word) for word in options.words]
    output = open_output(options.json)
    status = 0
    figures: Json = {}
    if options.command is None:
        figures = _ablated(traces, profile, options)
    else:
        with recorded(options.command, options.keep, options.force) as (status, path):
            try:
                figures = _ablated([open_trace(path)], profile, options)
            except LaconicError as error:
                tell(f"laconic: {error}\n")
                return status
        figures["traces"][0]["path"] = options.keep
        figures |= {"command": options.command, "exit_status": status}
    if output is not None:
        write_json(figures, output, options.json, program=options.command is not None)
    selected = selection_as_text(options.selection)
    if options.command is not None:
        tell(selected + as_text(figures, width(2)))
    elif options.json != "-":
        show(selected + as_text(figures, width(1)))
    return 70 if any(found["breaches"] for found in figures["verify"].values()) else status


def _ablated(traces: list[Trace], profile: CostProfile, options: argparse.Namespace) -> Json:
    from laconic.analysis.ablation import ablate
    from laconic.analysis.compare import Model
    from laconic.analysis.schemas import SCHEMAS
    from laconic.commands.progress import progress
    from laconic.commands.source import selection_as_json
    from laconic.commands.traces import losses, tell_loss
    from laconic.report.ablation import as_json
    from laconic.sgx.pal.switches import Switches

    model = Model(options.pte, options.verify, options.settings)
    total = sum(trace.size for trace in traces) * len(Switches._fields)
    what = traces[0].path if len(traces) == 1 else f"{len(traces):,} traces"
    with progress(f"comparing {what}", total) as update:
        ablation = ablate(
            traces,
            profile,
            progress=update,
            jobs=options.jobs,
            model=model,
            selection=options.selection,
        )
    about = []
    for trace, compared in zip(traces, ablation.compared, strict=True):
        tell_loss(trace, compared.lost)
        about.append(
            {
                "path": trace.path,
                "source": trace.source,
                "events": compared.events,
                "loss": losses(trace, compared.lost),
            }
        )
    return {
        "schema": SCHEMAS["compare"],
        "traces": about,
        **as_json(ablation),
        **selection_as_json(options.selection),
    }


def _recorded(
    names: list[str], profile: CostProfile | None, pages: int | None, options: argparse.Namespace
) -> tuple[int, Json]:
    from laconic.commands.output import tell
    from laconic.commands.program import recorded
    from laconic.commands.traces import open_trace

    # Stacks are for the other verbs that read the trace, if it is kept.
    stacks = "none" if options.keep is None else "all"
    with recorded(options.command, options.keep, options.force, stacks) as (status, path):
        try:
            figures = _compared(open_trace(path), names, profile, pages, options)
        except LaconicError as error:
            # The program has run, so its exit status is returned.
            tell(f"laconic: {error}\n")
            return status, {}
    figures["trace"]["path"] = options.keep
    return status, {**figures, "command": options.command, "exit_status": status}


def _compared(
    trace: Trace,
    names: list[str],
    profile: CostProfile | None,
    pages: int | None,
    options: argparse.Namespace,
) -> Json:
    from laconic.analysis.compare import Model, compare_direct, compare_host_calls
    from laconic.analysis.schemas import SCHEMAS
    from laconic.commands.progress import progress
    from laconic.commands.source import selection_as_json
    from laconic.commands.traces import losses, tell_loss
    from laconic.report.compare import NO_EDMM, SELECTED, direct_as_json, hosts_as_json

    if options.host == "gramine":
        with progress(f"comparing {trace.path}", trace.size) as update:
            found = compare_direct(trace, names, options.settings, update)
        events, lost = found.events, found.lost[:-1] if trace.loss else found.lost
        figures = direct_as_json(found)
    elif profile is not None:
        model = Model(options.pte, options.verify, options.settings)
        figures, events, lost = enclaves(
            trace, names, profile, pages, options.jobs, model, options.selection
        )
        if options.selection is not None and options.selection.divides_processes:
            figures["notes"].append(SELECTED)
        if not options.has_edmm:
            figures["notes"].insert(0, NO_EDMM)
    else:
        with progress(f"comparing {trace.path}", trace.size) as update:
            replays = compare_host_calls(trace, names, update).strategies
        first = next(iter(replays.values()))
        events, lost = first.events, first.loss[:-1] if trace.loss else first.loss
        figures = hosts_as_json(replays)
    tell_loss(trace, lost)
    about = {
        "path": trace.path,
        "source": trace.source,
        "events": events,
        "loss": losses(trace, lost),
    }
    return {
        "schema": SCHEMAS["compare"],
        "trace": about,
        **figures,
        **selection_as_json(options.selection),
    }


# Options


def _check_words(options: argparse.Namespace) -> None:
    if options.ablation:
        for given, name in (
            (options.strategy != "all", "--strategy"),
            (options.epc is not None, "--epc"),
            (options.by is not None, "--by"),
            (options.host != "sgx2", f"--host {options.host}"),
        ):
            if given:
                raise LaconicError(f"--ablation compares the switches of every-call: omit {name}")
    if options.ablation and options.command is None and options.words:
        check_kept(options)
    else:
        check_source(options, "compare")
    host = options.host
    if host == "linux" and options.manifest is not None:
        raise LaconicError(
            f"--manifest {options.manifest!r} is about Gramine: leave it out, or --host linux"
        )
    if host != "sgx2":
        for given, name in ((options.costs, "--costs"), (options.epc, "--epc")):
            if given is not None:
                raise LaconicError(
                    f"{name} {given!r} is about enclaves: leave it out, or --host {host}"
                )
        if options.by == "program":
            raise LaconicError(f"--by program is about enclaves: say --by call with --host {host}")


def _names(text: str, host: str) -> list[str]:
    from laconic.analysis.compare import BOUND
    from laconic.analysis.sweep import choose
    from laconic.strategies import base_name, names_on

    also = (BOUND,) if host == "sgx2" else ()
    chosen = choose(text, host, also)
    shown: list[str] = []
    for known in names_on(host):
        # The ratios are relative to every-call, which is always included.
        if known == "every-call" or known in chosen:
            shown.append(known)
        shown += [name for name in chosen if base_name(name) == known and name != known]
    shown += also
    return [*shown, *(name for name in chosen if name not in shown)]


def _settings(manifest: str | None) -> tuple[Settings, bool]:
    # Return the manifest's settings, and whether it enables EDMM; without a manifest, Gramine with
    # EDMM.
    from laconic.libos.settings import DEFAULTS, read_manifest

    if manifest is None:
        return DEFAULTS, True
    return read_manifest(input_path(manifest))


def epc_pages(text: str) -> int:
    """Return the number of pages of a size such as `128M`; without a unit, a size is in bytes.
    Raises LaconicError for an invalid size."""
    found = re.fullmatch(r"(\d{1,30})([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE | re.ASCII)
    pages = int(found[1]) << _UNITS[found[2].upper()] >> _PAGE_BITS if found else 0
    if not 0 < pages < 1 << 64:
        raise LaconicError(f"--epc {text!r} is not a size of an EPC: give 4K or more, as in 128M")
    return pages
