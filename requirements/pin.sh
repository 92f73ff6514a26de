#!/bin/sh
# Re-pins the requirement files with hashes and without an index address. Needs `uv` on the PATH.
set -eu
cd "$(dirname "$0")/.."
pin() {
    output=$1
    shift
    uv pip compile -q --python-version 3.11 --universal --generate-hashes \
        --no-emit-index-url --no-header --no-annotate "$@" -o "requirements/$output"
}
pin production.txt pyproject.toml
pin development.txt --extra lab --extra dev pyproject.toml
pin bench.txt requirements/bench.in
pin bench-backups.txt --no-deps requirements/bench-backups.in
