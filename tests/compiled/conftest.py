"""These tests are collected only where Laconic is compiled: `sh tools/wheel.sh --test`."""

from laconic.commands import build

collect_ignore_glob = [] if build() == "compiled" else ["test_*.py"]
