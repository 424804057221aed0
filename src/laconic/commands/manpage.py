"""The manual page laconic(1), generated from the parsers of all verbs."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping

from laconic import __version__
from laconic.commands import EXAMPLES, EXIT_CODES, QUESTIONS


def manual_page(
    parser: argparse.ArgumentParser, verbs: Mapping[str, argparse.ArgumentParser]
) -> str:
    """Return laconic(1) in the man macros of troff.

    `parser` and `verbs` are those of `laconic.commands.build`, with the options of all verbs.
    """
    return "\n".join(_lines(parser, verbs)) + "\n"


def _lines(
    parser: argparse.ArgumentParser, verbs: Mapping[str, argparse.ArgumentParser]
) -> Iterator[str]:
    yield f'.TH LACONIC 1 "" "laconic {__version__}" "User Commands"'
    yield ".SH NAME"
    yield r"laconic \- which memory calls of a program change nothing, and what all of them cost"
    yield ".SH SYNOPSIS"
    yield r".B laconic"
    yield ".I VERB"
    yield r"[\fIOPTION\fR ...]"
    yield ".SH DESCRIPTION"
    yield _escaped(parser.description or "")
    for question, summaries in QUESTIONS.items():
        yield f".SS {_escaped(question)}"
        for verb, summary in summaries.items():
            yield ".TP"
            yield f".B {verb}"
            yield _escaped(summary)
    yield ".SH EXIT STATUS"
    yield from _verbatim(EXIT_CODES.partition("\n")[2])
    yield ".SH EXAMPLES"
    yield from _verbatim(EXAMPLES.partition("\n")[2])
    for verb, declared in verbs.items():
        yield f".SH LACONIC {verb.upper()}"
        yield from _verb(declared)


def _verb(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield from _verbatim(parser.format_usage().removeprefix("usage: "))
    yield ".PP"
    for line in (parser.description or "").splitlines():
        yield _escaped(line)
    for action in parser._actions:
        if action.help is None or action.help == argparse.SUPPRESS:
            continue
        yield ".TP"
        yield _heading(action)
        # argparse expands %(default)s and %% in help texts; no other conversion is used here.
        yield _escaped(action.help % {"default": action.default, "prog": parser.prog})
    if parser.epilog:
        yield ".PP"
        yield from _verbatim(parser.epilog)


def _heading(action: argparse.Action) -> str:
    # -o, --output TRACE  or  --to {folded,svg}  or  FILE
    value = action.metavar or action.dest
    if action.choices is not None and action.metavar is None:
        value = "{" + ",".join(map(str, action.choices)) + "}"
    if not action.option_strings:
        return rf"\fI{_escaped(str(value))}\fR"
    names = ", ".join(rf"\fB{_escaped(name)}\fR" for name in action.option_strings)
    return names if action.nargs == 0 else rf"{names} \fI{_escaped(str(value))}\fR"


def _verbatim(text: str) -> Iterator[str]:
    yield ".nf"
    for line in text.rstrip("\n").splitlines():
        yield _escaped(line)
    yield ".fi"


def _escaped(text: str) -> str:
    r"""Return text that troff prints as it is.

    >>> print(_escaped("-o FILE\n.toml"))
    \-o FILE
    \&.toml
    """
    text = text.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq")
    return re.sub(r"^(?=[.])", r"\\&", text, flags=re.MULTILINE)
