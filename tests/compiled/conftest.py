"""These tests are collected only where Laconic is compiled: `sh tools/wheel-test.sh`."""

from laconic.commands import installed_build

collect_ignore_glob = [] if installed_build() == "compiled" else ["test_*.py"]
