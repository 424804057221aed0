# Sourced by try.sh and test.sh. Defines `need PACKAGE...`, which installs Debian packages, and `environment ARGUMENT...`,
# which makes .venv with Python 3.11 or newer and passes its arguments to `pip install`.
set -eu
cd "$(dirname "$0")/.."

need() {
    missing=""
    for package in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null)" = "ii " ] || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    sudo=""
    [ "$(id -u)" = 0 ] || sudo=sudo
    echo "installing Debian packages:$missing" >&2
    # Packages that bring a server must not start it: a policy-rc.d that says no is put there for the time being.
    policy=/usr/sbin/policy-rc.d
    mine=""
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | $sudo tee "$policy" >/dev/null && $sudo chmod 755 "$policy" && mine=yes
    fi
    status=0
    # shellcheck disable=SC2086
    { $sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive $sudo apt-get install -qq -y \
        --no-install-recommends $missing; } >"${TMPDIR:-/tmp}/laconic-apt.$$" 2>&1 || status=$?
    [ -z "$mine" ] || $sudo rm -f "$policy"
    [ "$status" = 0 ] || cat "${TMPDIR:-/tmp}/laconic-apt.$$" >&2
    rm -f "${TMPDIR:-/tmp}/laconic-apt.$$"
    return "$status"
}

# Before it was named laconic-mm, the distribution was named laconic. An environment that contains both names has two
# owners of bin/laconic and two entry points for the pytest plug-in. Uninstalling the old name deletes bin/laconic, so
# it must precede the installation of the new one. The old build also left src/laconic.egg-info, which an editable
# installation makes visible as a second distribution.
uninstall_old_name() {
    for metadata in .venv/lib/python3*/site-packages/laconic-*.dist-info; do
        [ -d "$metadata" ] || continue
        .venv/bin/pip uninstall --quiet --disable-pip-version-check --yes laconic
        break
    done
    rm -rf src/laconic.egg-info
}

environment() {
    for python in python3 python3.14 python3.13 python3.12 python3.11; do
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break
        python=""
    done
    [ -n "$python" ] || { echo "Laconic needs Python 3.11 or newer: install python3.11" >&2; exit 1; }
    [ -x .venv/bin/pip ] || {
        version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
        "$python" -c 'import ensurepip' 2>/dev/null || need "$version-venv"
        "$python" -m venv .venv
    }
    uninstall_old_name
    .venv/bin/pip install --quiet --disable-pip-version-check "$@"
}
