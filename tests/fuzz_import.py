"""Fuzzing of the importers: mutated lines of the corpus. `python -m tests.fuzz_import strace
--minutes 10`.

No crash, no hang, no unbounded memory: each import must end, within seconds, with a trace or with
an error for people.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import sys
from pathlib import Path

from laconic.errors import LaconicError
from laconic.replay.engine import Replay
from laconic.trace.importers.importing import import_logs
from laconic.trace.reader import TraceReader
from tests.fuzzing import Input, add_seeds, corpus, for_seeds, mutate


def check(kind: str, text: bytes, where: Path) -> None:
    """Imports the text and replays it. Raises whatever is not an error for people."""
    log, trace = where / "fuzz.log", where / "fuzz.trace"
    log.write_bytes(text)
    try:
        report = import_logs(kind, [str(log)], str(trace), force=True)
    except LaconicError:
        return
    assert report.lines >= report.not_understood
    assert TraceReader(str(trace)).source == kind
    rows = sum(1 for _ in TraceReader(str(trace)).rows())
    assert rows < 40 * (report.lines + 10)


def main() -> int:
    """Returns 0; raises what a log raised, which is kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind")
    parser.add_argument("--replay", action="store_true", help="replay each trace too")
    add_seeds(parser)
    options = parser.parse_args()
    texts = corpus(options.kind)

    def make(chance: random.Random) -> Input:
        return options.kind, mutate(chance.choice(texts), chance.randrange, chance.randrange(1, 60))

    def check_one(log: Input, where: Path) -> None:
        check(*log, where)
        if options.replay and (where / "fuzz.trace").exists():
            Replay(TraceReader(str(where / "fuzz.trace")), check=True).run()

    counts, slowest = for_seeds(options, make, check_one)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(
        f"{counts.total():,} logs, the slowest {slowest:.2f} s, at most {most} MiB, process "
        f"{os.getpid()}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
