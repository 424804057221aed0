"""laconic completion: shell scripts that complete verbs, options and files."""

from __future__ import annotations

import argparse

SHELLS = ("bash", "zsh", "fish")
DESCRIPTION = """\
Writes a script to standard output that lets a shell complete the verbs and
options of laconic, their values, and the names of files.
"""
EPILOG = """\
examples:
  laconic completion bash > ~/.local/share/bash-completion/completions/laconic
  laconic completion zsh > ~/.zfunc/_laconic
  laconic completion fish > ~/.config/fish/completions/laconic.fish

New shells use the file. zsh needs  fpath+=~/.zfunc  before compinit in .zshrc.
"""
#: Arguments that name files, by their placeholder in the help.
PATHS = frozenset(
    ("A B", "FILE", "FILE EVENT", "LOG", "NAME|FILE", "OUT", "REPORT", "RESULT", "TRACE", "VECTORS")
)
DIRECTORIES = frozenset(("DIR", "DIR|GLOB"))


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `completion`."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.add_argument("shell", choices=SHELLS, help="the shell that reads the script")
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Write the script."""
    import shtab

    from laconic.commands import VERBS, build
    from laconic.commands.traces import show

    parser, verbs = build(VERBS)
    for action in parser._actions:
        # The list of verbs is suppressed in the help, which has its own list, and shtab omits what
        # is suppressed.
        if action.help == argparse.SUPPRESS:
            action.help = "the verb"
    for declared in verbs.values():
        for action in declared._actions:
            if action.metavar in PATHS:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
            elif action.metavar in DIRECTORIES:
                action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    show(shtab.complete(parser, options.shell).rstrip("\n") + "\n")
    return 0
