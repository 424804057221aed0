#!/bin/sh
# Builds the compiled wheel, not optimized, and runs the tests of what is compiled on it. Arguments go to pytest:
#     sh tools/wheel-test.sh -x tests/compiled    for these tests only
. "$(dirname "$0")/python.sh"
# shellcheck disable=SC2046
need $(sed 's/#.*//' tests/apps/packages.txt)
environment -e '.[test]'
include=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("include"))')
[ -e "$include/Python.h" ] || need python3-dev
LACONIC_COMPILE_LEVEL=0 sh tools/wheel.sh
if [ $# = 0 ]; then
    set -- tests/compiled tests/model tests/kernel tests/faithful tests/tracer
    for package in memory linux sgx libos strategies replay; do
        set -- "$@" "tests/unit/$package"
    done
fi
PYTHONPATH=build/compiled exec .venv/bin/python -m pytest -n "$(($(nproc) + 1))" -rs -m "not slow and not pure" "$@"
