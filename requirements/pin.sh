#!/bin/sh
# Re-pins both requirement files with hashes and without an index address. Needs `uv` on the PATH.
set -eu
cd "$(dirname "$0")/.."
pin() {
    output=$1
    shift
    uv pip compile -q --python-version 3.11 --universal --generate-hashes \
        --no-emit-index-url --no-header --no-annotate "$@" pyproject.toml -o "requirements/$output"
}
pin production.txt
pin development.txt --extra lab --extra dev
