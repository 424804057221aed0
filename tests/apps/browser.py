"""Headless Chromium, driven by the DevTools protocol over a pair of pipes: no driver, no port,
nothing to download."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
#: Seconds that an answer of the browser may take: machines that do much else at the same time are
#: slow.
PATIENCE = 60.0
#: What Chromium itself asks for is not asked; what a page asks for is seen.
_OPTIONS = (
    "--headless=new", "--remote-debugging-pipe", "--disable-gpu", "--no-first-run",
    "--no-default-browser-check",
    "--disable-extensions", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--force-color-profile=srgb",
    "--force-prefers-reduced-motion",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip


class BrowserError(Exception):
    """The browser said no, or nothing."""


class Browser:
    """One browser with one page. `errors` are the messages of its console and its exceptions,
    `requests` the addresses that the page asked for."""

    def __init__(self, home: str) -> None:
        assert CHROMIUM is not None
        ours, its = os.pipe(), os.pipe()
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (ours[0], its[1])]

        def connect() -> None:
            # Chromium reads descriptor 3 and writes 4.
            for fd, place in zip(high, (3, 4), strict=True):
                os.dup2(fd, place)

        options = [
            *_OPTIONS,
            f"--user-data-dir={home}",
            *(["--no-sandbox"] if os.geteuid() == 0 else []),
        ]
        self.process = subprocess.Popen(
            [CHROMIUM, *options, "about:blank"], preexec_fn=connect, pass_fds=(3, 4),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "HOME": home},
        )  # fmt: skip
        for fd in (ours[0], its[1], *high):
            os.close(fd)
        self._write, self._read = ours[1], its[0]
        self._number, self._left, self._session = 0, b"", ""
        self.errors: list[str] = []
        self.requests: list[str] = []
        targets = self.send("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self.send("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def close(self) -> None:
        """Ends the browser."""
        with contextlib.suppress(BrowserError, OSError):
            self._session = ""
            self.send("Browser.close")
        for fd in (self._write, self._read):
            os.close(fd)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    # The protocol

    def send(self, method: str, **params: Any) -> Any:
        """One command, and its result. Raises BrowserError."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        until = time.monotonic() + PATIENCE
        while True:
            answer = self._next(until)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']}")
                return answer["result"]

    def _next(self, until: float) -> dict[str, Any]:
        while b"\0" not in self._left:
            if not select.select([self._read], [], [], max(until - time.monotonic(), 0))[0]:
                raise BrowserError("the browser does not answer")
            data = os.read(self._read, 1 << 20)
            if not data:
                raise BrowserError("the browser has gone")
            self._left += data
        first, self._left = self._left.split(b"\0", 1)
        message: dict[str, Any] = json.loads(first)
        self._note(message)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        match message.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Runtime.exceptionThrown":
                details = params["exceptionDetails"]
                self.errors.append(
                    details.get("exception", {}).get("description") or details["text"]
                )
            case "Runtime.consoleAPICalled":
                self.errors.append(
                    " ".join(
                        str(each.get("value", each.get("description"))) for each in params["args"]
                    )
                )
            case "Log.entryAdded":
                self.errors.append(params["entry"]["text"])

    # What a person does

    def open(self, page: Path, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Opens a file, and waits until its script is done."""
        # The same page opened again would be scrolled to where it was.
        self.send("Page.navigate", url="about:blank")
        self.size(width, height)
        self.dark(dark)
        self.errors.clear()
        self.requests.clear()
        self.send("Page.navigate", url=page.as_uri())
        self.wait("document.documentElement?.dataset.ready === 'yes'")

    def size(self, width: int, height: int = 900) -> None:
        """Makes the window so large."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def dark(self, dark: bool) -> None:
        """Makes the system's colours dark, or light."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.send("Emulation.setEmulatedMedia", features=features)

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is waited for. Raises BrowserError for an
        exception."""
        result = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in result:
            raise BrowserError(
                result["exceptionDetails"].get("exception", {}).get("description", expression)
            )
        return result["result"].get("value")

    def wait(self, expression: str) -> None:
        """Waits until an expression is true. Raises BrowserError where it does not come to be."""
        until = time.monotonic() + PATIENCE
        while not self.run(expression):
            if time.monotonic() > until:
                raise BrowserError(f"{expression} is not true; the page says {self.errors}")
            time.sleep(0.02)

    def centre(self, selector: str) -> tuple[float, float]:
        """Scrolls an element into view; where its middle is then."""
        found = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); "
            "e.scrollIntoView({block: 'center'}); "
            "const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / "
            "2]; })()"
        )
        return found[0], found[1]

    def click(self, selector: str) -> None:
        """Clicks on an element as a mouse does."""
        x, y = self.centre(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def wheel(self, selector: str, by: int) -> None:
        """Turns the wheel over an element; below 0 is upwards."""
        x, y = self.centre(selector)
        self.send("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=by)

    def press(self, key: str) -> None:
        """Presses a key in what has the focus."""
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        codes = {
            "Enter": 13,
            "Escape": 27,
            "ArrowLeft": 37,
            "ArrowUp": 38,
            "ArrowRight": 39,
            "ArrowDown": 40,
            "Tab": 9,
        }
        about = {"key": key, "windowsVirtualKeyCode": codes.get(key, ord(key[0].upper()))}
        self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **about)
        self.send("Input.dispatchKeyEvent", type="keyUp", **about)

    def type(self, selector: str, text: str) -> None:
        """Types into a field, replacing what is there."""
        self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.focus(); "
            f"e.select(); }})()"
        )
        if text:
            self.send("Input.insertText", text=text)
        else:
            self.run(f"document.querySelector({json.dumps(selector)}).value = ''")
            self.run(
                f"document.querySelector({json.dumps(selector)}).dispatchEvent(new Event('input'))"
            )

    def choose(self, selector: str, value: str) -> None:
        """Chooses an option of a list."""
        self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.value = "
            f"{json.dumps(value)};"
            "e.dispatchEvent(new Event('change', {bubbles: true})); })()"
        )

    def picture(self, whole: bool = False) -> bytes:
        """What is seen, as PNG: the window, or the whole page."""
        options: dict[str, Any] = {"captureBeyondViewport": True} if whole else {}
        if whole:
            size = self.send("Page.getLayoutMetrics")["cssContentSize"]
            options["clip"] = {
                "x": 0,
                "y": 0,
                "width": size["width"],
                "height": size["height"],
                "scale": 1,
            }
        return base64.b64decode(
            self.send("Page.captureScreenshot", format="png", **options)["data"]
        )


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A browser, in a home of its own that is gone afterwards."""
    with tempfile.TemporaryDirectory(
        prefix="laconic-chromium-", ignore_cleanup_errors=True
    ) as home:
        made = Browser(home)
        try:
            yield made
        finally:
            made.close()
