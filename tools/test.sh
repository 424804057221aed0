#!/bin/sh
# Installs what the tests need (Debian and Python packages), checks style and types, and runs the tests.
# Arguments go to pytest:  sh tools/test.sh -m slow
. "$(dirname "$0")/python.sh"
lists=tests/apps/packages.txt
case " $* " in *slow*) lists="$lists tests/apps/packages-slow.txt" ;; esac
# shellcheck disable=SC2046
need $(sed 's/#.*//' $lists)
environment -e '.[test]'
.venv/bin/ruff check
.venv/bin/ruff format --check
.venv/bin/mypy
# Tests wait for programs a quarter of the time: one process more than there are processors.
exec .venv/bin/python -m pytest -n "$(($(nproc) + 1))" -rs "$@"
