#!/bin/sh
# Builds the compiled wheel into dist/compiled, and installs it into build/compiled, which tests and benchmarks use:
#     sh tools/wheel.sh [PYTHON]    for another Python than that of .venv
# LACONIC_COMPILE_LEVEL=0 builds in half the time, for tests: the C compiler does not optimize.
set -eu
cd "$(dirname "$0")/.."
python=${1:-.venv/bin/python}
# setuptools would keep what it compiled at another level: only the sources are compared.
rm -rf dist/compiled build/compiled build/lib.* build/temp.* build/bdist.*
LACONIC_COMPILE=1 "$python" -m pip wheel --quiet --disable-pip-version-check --no-deps -w dist/compiled .
"$python" -m pip install --quiet --disable-pip-version-check --no-deps --target build/compiled dist/compiled/*.whl
