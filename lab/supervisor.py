"""The lab's supervisor: starts every server, knows every process, and ends all of them when its owner goes.

It runs in a session of its own (a terminal's Ctrl-C does not reach it) as a subreaper, so that no orphan escapes it.
Its standard input is a pipe from the owner: end of file means that the owner is gone, however it went. A detached lab
(`drctl lab up`) has no owner any more and ends on request or signal. If the supervisor itself is killed, every server
that it started receives SIGKILL.

    python -m lab.supervisor <folder, or empty to make one> <regions, comma separated>

The first line on standard output is JSON: {"folder", "network", "ports"} or {"error"}.
"""

from __future__ import annotations

import asyncio
import contextlib
import grp
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil
from pydantic import BaseModel

from lab import addresses, channel
from lab.belongings import processes_of
from lab.errors import LabError
from lab.processes import (
    become_subreaper,
    die_with,
    drop_shared_memory,
    folders_with,
    is_gone,
    kill_all,
    kill_descendants,
    kill_trees,
    postmaster_pid,
    remove_lab,
    resume_all,
    stop_all,
)
from lab.state import COMPANION, STATE_FILE, Delay, LabState, Server

SOCKET = "supervisor.sock"
_COMES_BACK_AFTER = 0.5  # seconds
_OUTPUT_KEPT = 20_000  # characters of a one-off command's output


class Launch(BaseModel):
    """How a process is started."""

    argv: list[str]
    env: dict[str, str]
    cwd: Path
    user: str | None = None


class Supervisor:
    """Owns the processes and the state file of one lab."""

    def __init__(self, folder: Path, made: bool, ports: list[int]) -> None:
        self.folder = folder
        self.made = made
        self.ports = ports
        self.state: LabState | None = None
        self.launches: dict[str, Launch] = {}
        self.exits: dict[int, asyncio.Future[int]] = {}
        self.ended = asyncio.Event()
        self.outer: list[Path] = []
        self._write_minimum()

    # -- requests ---------------------------------------------------------------------------------------------

    async def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        match request["do"]:
            case "state":
                self.state = LabState.model_validate(request["state"])
                self.save()
            case "outer-folder":
                return {"folder": str(self.make_outer_folder(Path(request["parent"])))}
            case "register":
                self.launches[request["server"]["name"]] = Launch.model_validate(request["launch"])
                self.known().servers.append(Server.model_validate(request["server"]))
                self.save()
            case "start":
                return {"pid": self.start_server(request["name"])}
            case "run":
                return await self.run(Launch.model_validate(request["launch"]), request["timeout"])
            case "kill":
                await self.kill(request["names"], request["with_disks"])
            case "freeze" | "thaw" as action:
                self.pause(request["names"], action == "freeze")
            case "network":
                self.note_network(request["network"])
            case "hand-over":
                self.known().handed_over = True
                self.save()
            case "detach":
                asyncio.get_running_loop().remove_reader(0)
            case "stop":
                self.ended.set()
                await asyncio.Event().wait()  # the caller waits for the end of this process
            case unknown:
                raise LabError(f"The supervisor knows no request {unknown!r}.")
        return {}

    def known(self) -> LabState:
        if self.state is None:
            raise LabError("The lab is still being started.")
        return self.state

    def note_network(self, network: dict[str, Any]) -> None:
        state = self.known()
        state.partitions = [(one, other) for one, other in network["cut"]]
        state.one_way = [(sender, receiver) for sender, receiver in network["one_way"]]
        state.delays = [Delay.model_validate(delay) for delay in network["delays"]]
        self.save()

    def make_outer_folder(self, parent: Path) -> Path:
        made = Path(tempfile.mkdtemp(prefix="recovery-lab-", dir=parent))
        made.chmod(0o711)
        self.outer.append(made)
        self._write_minimum()
        return made

    # -- processes --------------------------------------------------------------------------------------------

    def spawn(self, launch: Launch, output: int | Any) -> subprocess.Popen[bytes]:
        identity: dict[str, Any] = {}
        if launch.user is not None:
            entry = pwd.getpwnam(launch.user)
            identity = {"user": entry.pw_uid, "group": grp.getgrgid(entry.pw_gid).gr_gid, "extra_groups": []}
        try:
            process = subprocess.Popen(
                launch.argv,
                env=launch.env,
                cwd=launch.cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with(os.getpid()),  # noqa: PLW1509 - two system calls, no locks
                **identity,
            )
        except OSError as error:
            raise LabError(f"Cannot start {launch.argv[0]}: {error}") from error
        self.exits[process.pid] = asyncio.get_running_loop().create_future()
        return process

    def start_server(self, name: str) -> int:
        server = self.known().server(name)
        if self.processes(server):
            raise LabError(f"{name} is already running.")
        if name not in self.launches:
            raise LabError(f"{name} is started by its region's guard, not by the lab.")
        with server.log_file.open("ab") as log:
            server.log_offset = log.tell()
            process = self.spawn(self.launches[name], log)
        server.pid, server.state, server.exit_code = process.pid, "running", None
        self.save()
        self.exits[process.pid].add_done_callback(lambda ended: self.note_exit(name, process.pid, ended.result()))
        return process.pid

    def note_exit(self, name: str, pid: int, code: int) -> None:
        server = self.known().server(name)
        if server.pid == pid and server.state in ("running", "frozen"):
            server.state, server.exit_code = "exited", code
            self.save()
            if server.comes_back:
                asyncio.get_running_loop().call_later(_COMES_BACK_AFTER, self.bring_back, name)

    def bring_back(self, name: str) -> None:
        """What a service manager does; one that ends again and again comes back as often, at this pace."""
        if self.known().server(name).state == "exited" and not self.ended.is_set():
            with contextlib.suppress(LabError):  # its program is gone: its state says that it ended
                self.start_server(name)

    async def run(self, launch: Launch, timeout: float) -> dict[str, Any]:
        """Run a command to its end; reply with its exit code and the end of its output."""
        with tempfile.TemporaryFile(dir=self.folder) as output:
            process = self.spawn(launch, output)
            try:
                code = await asyncio.wait_for(asyncio.shield(self.exits[process.pid]), timeout)
            except TimeoutError:
                kill_trees([process.pid])
                code = -signal.SIGKILL
            output.seek(0)
            text = output.read().decode(errors="replace")
        return {"code": code, "output": text[-_OUTPUT_KEPT:]}

    def reap(self) -> None:
        """Collect every child that ended, our own and adopted ones."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
                waiting = self.exits.pop(ended[0], None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(os.waitstatus_to_exitcode(ended[1]))

    def processes(self, server: Server) -> list[int]:
        """Return the living processes of a server, those of a PostgreSQL that somebody else started there included."""
        place = self.known().postgres.get(server.region)
        ours = server.pid if server.pid in self.exits else None
        return processes_of(server, ours, place.data_directory if place else None)

    async def kill(self, names: list[str], with_disks: bool) -> None:
        servers = [self.known().server(name) for name in names]
        for server in servers:
            if server.state != "absent" or self.processes(server):
                server.state = "killed"
        doomed = kill_all(lambda: [pid for server in servers for pid in self.processes(server)])
        while not all(is_gone(process) for process in doomed):
            await asyncio.sleep(0.005)
        for server in servers:
            server.pid = None
            if server.data_directory is None:
                continue
            if server.service == "postgres":
                drop_shared_memory(server.data_directory)
            if with_disks:
                await asyncio.to_thread(shutil.rmtree, server.data_directory, ignore_errors=True)
        self.save()

    def pause(self, names: list[str], freeze: bool) -> None:
        servers = [self.known().server(name) for name in names]
        if freeze:
            meant = [server for server in servers if self.processes(server)]
            stop_all(lambda: [pid for server in meant for pid in self.processes(server)])
        else:
            meant = [server for server in servers if server.state == "frozen"]
            resume_all(lambda: [pid for server in meant for pid in self.processes(server)])
        for server in meant:
            server.state = "frozen" if freeze else "absent" if server.service == COMPANION else "running"
        self.save()

    # -- the state file and the end ---------------------------------------------------------------------------

    def _write_minimum(self) -> None:
        """What cleaning up needs, for the time before the state is known."""
        self._write(
            json.dumps(
                {
                    "folder": str(self.folder),
                    "folder_made": self.made,
                    "reserved_ports": self.ports,
                    "outer_folders": [str(path) for path in self.outer],
                    "supervisor_pid": os.getpid(),
                }
            )
        )

    def save(self) -> None:
        state = self.known()
        state.supervisor_pid, state.outer_folders = os.getpid(), self.outer
        state.folder_made, state.reserved_ports = self.made, self.ports
        self._write(state.model_dump_json(indent=1))

    def _write(self, text: str) -> None:
        new = self.folder / f".{STATE_FILE}.new"
        new.touch(mode=0o600)
        new.write_text(text)
        new.replace(self.folder / STATE_FILE)

    def end_everything(self) -> None:
        """Kill every descendant and every PostgreSQL in the lab's folders, then remove what the lab made."""
        kill_descendants()
        for place in (self.folder, *self.outer):
            for data_directory in folders_with("postmaster.pid", place):
                other = postmaster_pid(data_directory)
                if other is not None:
                    gone = kill_trees([other])
                    psutil.wait_procs(gone, timeout=5)
        remove_lab(self.folder)


def prepare_folder(wanted: str) -> tuple[Path, bool]:
    """Return the lab's folder and whether it was made here. Raises LabError for one that holds something else."""
    if not wanted:
        folder = Path(tempfile.mkdtemp(prefix="recovery-lab-")).resolve()
        folder.chmod(0o711)
        return folder, True
    folder = Path(wanted).resolve()
    if folder.exists() and any(folder.iterdir()):
        _remove_dead_lab(folder)
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o711)
    return folder, made


def _remove_dead_lab(folder: Path) -> None:
    """Remove a lab whose supervisor was killed (a power cut, say). Refuse while it lives, and what is no lab."""
    try:
        old = json.loads((folder / STATE_FILE).read_text())
        recorded, pid = Path(old["folder"]), int(old["supervisor_pid"])
    except (OSError, ValueError, KeyError, TypeError):
        recorded, pid = Path(), 0
    if recorded != folder:
        raise LabError(f"{folder} is not empty and holds no lab: name an empty or a new folder.")
    with contextlib.suppress(psutil.NoSuchProcess):
        if "lab.supervisor" in psutil.Process(pid).cmdline():
            raise LabError(f"A lab is already running in {folder}: end it with `drctl lab down`, or name another.")
    remove_lab(folder)


async def supervise(wanted: str, regions: list[str]) -> None:
    become_subreaper()
    folder, made = prepare_folder(wanted)
    ports, held = addresses.reserve(addresses.port_names(regions))
    supervisor = Supervisor(folder, made, list(ports.values()))
    try:
        for name in ("log", "tmp"):
            (folder / name).mkdir()
        (folder / "tmp").chmod(0o1777)
        log = (folder / "log" / "supervisor.log").open("ab")
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, supervisor.ended.set)
        loop.add_signal_handler(signal.SIGCHLD, supervisor.reap)
        loop.add_reader(0, supervisor.ended.set)
        server = await channel.serve(folder, SOCKET, supervisor.handle)
        print(json.dumps({"folder": str(folder), "network": addresses.random_network(), "ports": ports}), flush=True)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        await supervisor.ended.wait()
        server.close()
    finally:
        supervisor.end_everything()
        for holder in held:
            holder.close()


def main() -> int:
    wanted, regions = sys.argv[1:]
    try:
        asyncio.run(supervise(wanted, regions.split(",")))
    except LabError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
