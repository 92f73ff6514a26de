"""Runs a command and leaves nothing of it behind, however it ends.

    python -m lab.reap -- command arguments...

The command runs in the foreground with a TMPDIR of its own. When it has ended, for whatever reason, every process that
it left is killed and its temporary folder is removed (with what labs in it left elsewhere); its exit code is returned,
128 + n after signal n. INT, TERM and HUP are passed on.

Two processes guard each other. The outer one holds the terminal's place; the inner one is its child, runs the command
and receives SIGTERM when the outer one dies, even by SIGKILL. Both are subreapers, so that what the inner one leaves
when *it* is killed falls to the outer one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from pathlib import Path

from lab.processes import become_subreaper, die_with, folders_with, kill_descendants, remove_lab

_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_GRACE_SECONDS = 20.0
_USAGE = "Usage: python -m lab.reap -- command arguments..."


def run(command: list[str]) -> int:
    """Run `command` as described above and return its exit code."""
    folder = Path(tempfile.mkdtemp(prefix="recovery-run-")).resolve()
    folder.chmod(0o711)  # as root, PostgreSQL's user has to pass through it
    survives_hangup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # nohup
    signal.pthread_sigmask(signal.SIG_BLOCK, {*_PASSED_ON, signal.SIGCHLD})
    become_subreaper()
    outer = os.getpid()
    try:
        inner = os.fork()
        if inner == 0:
            os._exit(_inner(command, folder, outer))
        code = _wait(inner, deaf_to={signal.SIGHUP} if survives_hangup else set())
    finally:
        kill_descendants()
        _remove(folder)
    return code


def _inner(command: list[str], folder: Path, outer: int) -> int:
    die_with(outer, signal.SIGTERM)()
    become_subreaper()
    own = os.getpid()
    try:
        process = subprocess.Popen(
            command,
            env={**os.environ, "TMPDIR": str(folder)},
            preexec_fn=_listener(die_with(own)),  # noqa: PLW1509 - this process has one thread
        )
    except OSError as error:
        print(f"Cannot start {command[0]}: {error.strerror or error}.", file=sys.stderr)
        return 127
    try:
        return _wait(process.pid)
    finally:
        kill_descendants()
        if os.getppid() != outer:
            _remove(folder)


def _listener(then: Callable[[], None]) -> Callable[[], None]:
    """What a child does before its command: it undoes what nohup, or a shell's background, made us ignore."""

    def prepare() -> None:
        for number in _PASSED_ON:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {*_PASSED_ON, signal.SIGCHLD})
        then()

    return prepare


def _wait(child: int, deaf_to: Collection[signal.Signals] = ()) -> int:
    """Pass signals on to `child` until it ends; kill it when it does not end in time after TERM or HUP."""
    deadline = float("inf")
    while True:
        got = signal.sigtimedwait({*_PASSED_ON, signal.SIGCHLD}, 0.5)
        if got is not None and got.si_signo in _PASSED_ON and got.si_signo not in deaf_to:
            # A terminal's Ctrl-C went to the whole foreground group: the child has it already.
            from_terminal = got.si_code > 0
            if not from_terminal:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, got.si_signo)
            if got.si_signo != signal.SIGINT:
                deadline = min(deadline, time.monotonic() + _GRACE_SECONDS)
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
                if ended[0] == child:
                    code = os.waitstatus_to_exitcode(ended[1])
                    return code if code >= 0 else 128 - code
        if time.monotonic() > deadline:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            deadline = float("inf")


def _remove(folder: Path) -> None:
    for lab_folder in reversed(folders_with("lab.json", folder)):  # the innermost first
        remove_lab(lab_folder)
    shutil.rmtree(folder, ignore_errors=True)


def main(arguments: list[str]) -> int:
    """Return the command's exit code; 2 for a wrong call."""
    if len(arguments) < 2 or arguments[0] != "--":
        print(_USAGE, file=sys.stderr)
        return 2
    return run(arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
