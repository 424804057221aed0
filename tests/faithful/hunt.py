"""Makes random calls until something differs, shrinks it, and saves it as a regression test.

    python -m tests.faithful.hunt --calls 100000 --seed 1

A difference of the same kind as a known one is passed over.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

from tests.faithful.calls import write_list
from tests.faithful.compare import MODES, compare
from tests.faithful.known import KNOWN
from tests.faithful.programs import BUILDS, HERE, LIST, REGRESSIONS, program, read_list
from tests.faithful.shrink import shorten

#: Lists in one batch.
BATCH = 16


def known_kinds(modes: list[str]) -> set[tuple[str, ...]]:
    """How the regressions differ that are known to differ."""
    kinds: set[tuple[str, ...]] = set()
    for name in KNOWN.intersection(REGRESSIONS):
        result = compare(program(), [read_list(name)], modes)
        kinds |= {difference.kind() for difference in result.differences.values()}
    return kinds


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1, help="the first list")
    parser.add_argument("--mode", choices=MODES, action="append", help="default: all")
    parser.add_argument("--build", choices=BUILDS, default="dynamic")
    parser.add_argument(
        "--save", type=Path, default=HERE / "regressions", help="where short lists are saved"
    )
    arguments = parser.parse_args()
    modes = arguments.mode or [*MODES]
    kinds = known_kinds(modes)
    tested = program(arguments.build)
    excluded: Counter[str] = Counter()
    begun = time.monotonic()
    total, seed, count = 0, arguments.seed, 0
    while total < arguments.calls:
        lists = [write_list(number, LIST) for number in range(seed, seed + BATCH)]
        result = compare(tested, lists, modes, kinds)
        for number, difference in sorted(result.differences.items()):
            if difference.kind() in kinds:
                continue
            kinds.add(difference.kind())
            print(f"list {seed + number}: {difference}\nshrinking ...", flush=True)
            calls = shorten(tested, lists[number], difference)
            path = arguments.save / f"{difference.native.name}-{seed + number}.calls"
            path.write_text("\n".join(calls) + "\n")
            print(f"{path.name}:", *calls, sep="\n    ", flush=True)
            count += 1
        total += result.calls
        excluded += result.excluded
        seed += BATCH
        print(f"{total:,} calls, next list {seed}", file=sys.stderr, flush=True)
    print(
        f"{total:,} calls in {time.monotonic() - begun:.0f} s, {count} new differences, "
        f"excluded: {dict(excluded)}"
    )
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
