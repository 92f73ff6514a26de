#!/bin/bash
# Installs Patroni into an environment of its own, where it is not there yet, and prints its program's path.
set -euo pipefail
cd "$(dirname "$0")/.."
# As root, Patroni runs as another user, who must be able to run this Python: a system's one, in a public folder.
python=$(command -v /usr/bin/python3.11 /usr/bin/python3.12 python3 | head -1)
venv=${BENCH_VENV:-/var/tmp/recovery-plans-bench-$(id -u)}
exec 9> "$venv.lock"
flock 9 # a second one waits for the first
if [ ! -x "$venv/bin/patroni" ] || [ requirements/bench.txt -nt "$venv/.installed" ]; then
    echo "installing Patroni into $venv (first time only)" >&2
    "$python" -m venv --clear "$venv"
    "$venv/bin/python" -m pip install -q --disable-pip-version-check --require-hashes --no-deps -r requirements/bench.txt >&2
    touch "$venv/.installed"
    chmod 755 "$venv"
fi
echo "$venv/bin/patroni"
