#!/bin/sh
# Builds the compiled wheel into dist/, and installs it into build/compiled, which tests and benchmarks use:
#     sh tools/wheel.sh [PYTHON]               for another Python than that of .venv
#     sh tools/wheel.sh --test [ARGUMENT...]   and run the tests of the compiled packages on it, with .venv
# LACONIC_COMPILE_LEVEL=1 builds in half the time, for tests.
set -eu
cd "$(dirname "$0")/.."
tests=""
if [ "${1:-}" = --test ]; then
    tests=yes
    shift
    python=.venv/bin/python
else
    python=${1:-.venv/bin/python}
fi
# setuptools would keep what it compiled at another level: only the sources are compared.
rm -rf dist/compiled build/compiled build/lib.* build/temp.* build/bdist.*
LACONIC_COMPILE=1 "$python" -m pip wheel --quiet --disable-pip-version-check --no-deps -w dist/compiled .
"$python" -m pip install --quiet --disable-pip-version-check --no-deps --target build/compiled dist/compiled/*.whl
[ -n "$tests" ] || exit 0
# Without arguments: all tests of what is compiled, and that both builds give the same results.
[ $# -gt 0 ] || set -- tests/compiled tests/model tests/kernel tests/faithful tests/unit
PYTHONPATH=build/compiled exec "$python" -m pytest -n "$(($(nproc) + 1))" -rs "$@"
