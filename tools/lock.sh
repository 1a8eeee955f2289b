#!/bin/sh
# Writes requirements/*.txt: for every Python that pyproject.toml allows, the newest version of each package and the hashes
# of its files. Usage: lock.sh UV
set -eu

lock() {
    name=$1
    shift
    "$uv" pip compile --quiet --upgrade --universal --python-version 3.11 --only-binary :all: --generate-hashes \
        --no-header --no-emit-index-url --no-emit-find-links "$@" pyproject.toml --output-file "requirements/$name.txt"
    echo "requirements/$name.txt: $(grep -c '==' "requirements/$name.txt") packages"
}

uv=$1
lock run
lock test --extra test
lock release --extra release
