"""What all tests share."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Generator

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """A shell starts a background job with SIGINT and SIGQUIT ignored, and nohup with SIGHUP; the
    programs of the tests would inherit that. Symbols are kept in a cache of the tests' own, which
    xdist's workers inherit."""
    for number in (signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput"):
        cache = tempfile.mkdtemp(prefix="laconic-cache-")
        os.environ["XDG_CACHE_HOME"] = cache
        config.add_cleanup(lambda: shutil.rmtree(cache, ignore_errors=True))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.CollectReport, None]:
    """Where everything is installed, as in CI, a test that skips is a test that does not test.

    What the kernel or the machine itself lacks (protection keys, huge pages set aside) no
    installation brings.
    """
    outcome = yield
    report = outcome.get_result()
    reason = str(report.longrepr)
    excused = hasattr(report, "wasxfail") or "this kernel" in reason or "this machine" in reason
    if os.environ.get("LACONIC_NO_SKIPS") and report.skipped and not excused:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} skipped where nothing may: {report.longrepr}"
