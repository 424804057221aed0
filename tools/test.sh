#!/bin/sh
# Installs what the tests need (Debian and Python packages), checks style and types, and runs the tests.
# Arguments go to pytest:  sh tools/test.sh -m slow
# With LACONIC_WHEEL=1 it also builds the compiled wheel meanwhile, and then runs tests on it.
. "$(dirname "$0")/python.sh"
lists=tests/apps/packages.txt
case " $* " in *slow*) lists="$lists tests/apps/packages-slow.txt" ;; esac
# shellcheck disable=SC2046
need $(sed 's/#.*//' $lists)
environment -e '.[test]'
if [ -n "${LACONIC_WHEEL:-}" ]; then
    [ -e "$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ] || need python3-dev
    mkdir -p build
    # Not optimized: that takes half of the time, and the code is the same.
    LACONIC_COMPILE_LEVEL=0 sh tools/wheel.sh >build/wheel.log 2>&1 &
    wheel=$!
fi
.venv/bin/ruff check
.venv/bin/ruff format --check
.venv/bin/mypy
# Tests wait for programs a quarter of the time: one process more than there are processors.
.venv/bin/python -m pytest -n "$(($(nproc) + 1))" -rs "$@"
[ -n "${LACONIC_WHEEL:-}" ] || exit 0
wait "$wheel" || { cat build/wheel.log >&2; exit 1; }
# All tests of what is compiled: sh tools/wheel.sh --test
PYTHONPATH=build/compiled exec .venv/bin/python -m pytest -n "$(($(nproc) + 1))" -rs \
    tests/compiled tests/kernel tests/faithful tests/model/test_model.py tests/unit/test_rangemap.py tests/unit/test_space.py \
    tests/unit/test_m[lmpru]*.py tests/unit/test_calls.py tests/unit/test_bookkeeper.py tests/unit/test_strategies.py
