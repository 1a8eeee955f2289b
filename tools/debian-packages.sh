#!/bin/sh
# Installs the Debian packages that the project needs and this machine lacks; prints nothing if none is missing.
# Usage: debian-packages.sh PYTHON [PROGRAM...]
# PROGRAM: one that tests use, whose package has the same name, or the package of a library. Tests that lack it are
# skipped, so this goes on without it.
set -eu

python=${1:-python3}
[ $# = 0 ] || shift
missing=
optional=

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "$python is not Python 3.11 or newer; select another one with: make PYTHON=python3.11 ..." >&2
    exit 2
fi
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
[ -n "${VTD_QEMU:-}" ] || command -v qemu-system-x86_64 >/dev/null || missing="$missing qemu-system-x86"
for program; do
    case $program in
    lib*-dev) /sbin/ldconfig -p 2>/dev/null | grep -q "${program%-dev}\.so" || optional="$optional $program" ;;
    *) command -v "$program" >/dev/null || optional="$optional $program" ;;
    esac
    # The compiler's package only recommends the C library's headers.
    [ "$program" != gcc ] || [ -e /usr/include/stdio.h ] || optional="$optional libc6-dev"
done
[ -n "$missing$optional" ] || exit 0

# Status 2 if something is missing that nothing works without.
give_up() {
    [ -n "$missing" ] && exit 2
    echo "tests that need$optional are skipped" >&2
    exit 0
}

if ! command -v apt-get >/dev/null; then
    echo "this system has no apt-get; install the equivalent of these Debian packages:$missing$optional" >&2
    give_up
fi
if [ "$(id -u)" = 0 ]; then
    as_root=
elif command -v sudo >/dev/null; then
    as_root=sudo
else
    echo "Debian packages are missing, and installing them needs root or sudo. As root, run:" \
        "apt-get update && apt-get install$missing$optional" >&2
    give_up
fi

echo "installing Debian packages:$missing$optional"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# The package lists may be missing, or older than the contents of the mirror.
if ! { $as_root apt-get update && $as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install --yes --no-install-recommends $missing $optional; } >"$log" 2>&1; then
    cat "$log" >&2
    echo "apt-get could not install:$missing$optional" >&2
    give_up
fi
