"""Makes the picture of docs/live.md: runs a program under the view of `laconic live`, without a
terminal, for a while.

tools/live_picture.py [-o docs/pictures/live.svg] [--seconds 4] [--size 110x32] -- CMD [ARG ...]
"""

from __future__ import annotations

import argparse
import asyncio
import re
import signal
import sys
from pathlib import Path

from laconic.analysis.live import LiveModel
from laconic.analysis.suppressions import BUILT_IN
from laconic.commands.options import accept_command, parse
from laconic.live.app import LiveApp
from laconic.live.child import Child


async def picture(app: LiveApp, size: tuple[int, int], seconds: float) -> str:
    """The view as SVG, after some time, or when the program has ended."""
    async with app.run_test(size=size) as pilot:
        for _ in range(round(seconds * 10)):
            await pilot.pause(0.1)
            if app.model.status is not None:
                break
        app.beat()
        await pilot.pause(0.1)
        drawn = app.export_screenshot(title=app.TITLE)
    # A page shows a picture without what that would fetch: the fonts that a reader has serve as
    # well.
    return re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL)


def main() -> int:
    """Draws; returns the program's exit status, or 143 where it had to be ended."""
    parser = argparse.ArgumentParser(description="Makes the picture of docs/live.md.")
    picture_of_docs = Path(__file__).parents[1] / "docs" / "pictures" / "live.svg"
    parser.add_argument("-o", "--output", default=picture_of_docs, type=Path)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--size", default="110x32")
    accept_command(parser)
    options = parse(parser, parser, sys.argv[1:])
    child = Child(options.command, {1: None, 2: None}, True)
    model = LiveModel(rules=BUILT_IN)
    width, _, height = options.size.partition("x")
    app = LiveApp(model, options.command, 0.5, lambda: child.drain(model), child.fresh, child.kill)
    drawn = asyncio.run(picture(app, (int(width), int(height)), options.seconds))
    options.output.write_text(drawn, encoding="utf-8")
    if model.status is None:
        child.kill(signal.SIGTERM)
    return child.wait(model)


if __name__ == "__main__":
    sys.exit(main())
