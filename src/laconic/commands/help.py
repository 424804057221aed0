"""laconic help: the help of a verb, and the manual page."""

from __future__ import annotations

import argparse

DESCRIPTION = """\
Shows the help of a verb, as laconic VERB --help does; without a verb, the list
of verbs. With --man, writes the manual page, with all verbs, to standard
output.
"""
EPILOG = """\
examples:
  laconic help callers
  laconic help --man > laconic.1
  man ./laconic.1

To install the page for one user, write it to
~/.local/share/man/man1/laconic.1; then  man laconic  finds it.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `help`."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.add_argument("topic", nargs="?", metavar="VERB", help="the verb to explain")
    parser.add_argument("--man", action="store_true", help="write the manual page of all verbs")
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Print the help."""
    from laconic.commands import VERBS, build
    from laconic.commands.manpage import manual_page
    from laconic.commands.options import did_you_mean
    from laconic.commands.traces import show
    from laconic.errors import LaconicError

    topic = options.topic
    if options.man:
        if topic is not None:
            raise LaconicError(f"the manual page has all verbs; leave out {topic!r}, or --man")
        show(manual_page(*build(VERBS)))
        return 0
    parser, verbs = build(() if topic is None else (topic,))
    if topic is None:
        show(parser.format_help())
        return 0
    if topic not in verbs:
        similar = did_you_mean(topic, verbs, "laconic --help")
        raise LaconicError(f"there is no verb {topic!r}{similar}")
    show(verbs[topic].format_help())
    return 0
