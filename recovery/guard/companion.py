"""The guard's companion: ends the writes of stores whose deadline passed while their guard was frozen or dead.

    python -I -S recovery/guard/companion.py <state folder>

A process of its own, in its own session, with the standard library alone: it is small, starts in a tenth of a second,
and shares no lock, no event loop and no memory with the guard. Everything it needs was written beforehand:

``deadline.json`` (written by the guard with a rename, so never half)::

    {"boot_id": "...", "ended": false, "stores": [
        {"group": "shop", "store": "postgres", "deadline": 1234.5,
         "kind": "postgres", "detail": {"data_directory": "/..."}},
        {"group": "shop", "store": "redis", "deadline": 1234.5,
         "kind": "listener", "detail": {"host": "10.0.0.5", "port": 6379, "files": {"/path": "text"}}}]}

``deadline`` is on CLOCK_BOOTTIME, which goes on while the host sleeps. A file of another boot says nothing: whatever
was primary then is none now, because at rest no store is. Kinds:

``postgres``  SIGKILL to every process that works in ``data_directory`` (a stop may wait for a frozen standby for a
              minute, and a killed postmaster leaves busy backends behind), then ``standby.signal``.
``listener``  SIGKILL to every process that listens at ``host``:``port`` (of these ``names``, where they are given).

Both may carry ``files`` in ``detail``: path -> text, written first (what keeps the next start from accepting writes).

While a deadline is past, it goes on looking: a promotion that a frozen guard sends after it thawed meets a dead
server again. A PostgreSQL that plainly recovers (it has a startup process) is left alone from the second look on.

It ends when the file says ``ended``, when its folder is gone, or when another companion holds ``companion.lock``.
``companion.alive`` is touched at every look; the guard replaces a companion that does not touch it.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import socket
import struct
import sys
import time
from pathlib import Path

POLL = 0.1  # seconds
DEADLINE_FILE = "deadline.json"
LOCK_FILE = "companion.lock"
ALIVE_FILE = "companion.alive"
LOG_FILE = "companion.log"
LOG_LIMIT = 1 << 20  # bytes
SIGNAL_FILE = "standby.signal"


def boot_id() -> str:
    """This boot's name."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def now() -> float:
    """Seconds on CLOCK_BOOTTIME."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


# -- ending a store -----------------------------------------------------------------------------------------------


def end(kind: str, detail: dict[str, object]) -> list[int]:
    """Ends a store's writes; returns the processes that were killed. Safe to repeat. Raises OSError, KeyError."""
    if kind == "postgres":
        return end_postgres(Path(str(detail["data_directory"])), detail)
    if kind == "listener":
        _write_files(detail)
        names = detail.get("names")
        return _kill(lambda: listeners(str(detail["host"]), int(str(detail["port"])), names))
    raise KeyError(f"a store of kind {kind!r} cannot be ended from outside")


def end_postgres(folder: Path, detail: dict[str, object] | None = None) -> list[int]:
    """SIGKILL to every process that works in the data directory, then standby.signal, owned as the directory is."""
    killed = _kill(lambda: workers_of(folder))
    if (folder / "PG_VERSION").exists():
        mark_standby(folder)
    _write_files(detail or {})
    return killed


def mark_standby(folder: Path) -> None:
    """Makes sure that the next start of this data directory is a standby's. Blocking; flushed to the disk."""
    path = folder / SIGNAL_FILE
    if path.exists():
        return
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        owner = folder.stat()
        if os.geteuid() == 0:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    directory = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def workers_of(folder: Path) -> list[int]:
    """Living processes whose working directory is the data directory: all of a PostgreSQL, and nothing else's."""
    wanted = os.path.realpath(folder)
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208 - called often, and only names are needed
        if not name.isdigit():
            continue
        try:
            if os.readlink(f"/proc/{name}/cwd") == wanted and _command(int(name)).startswith("postgres"):  # noqa: PTH115
                found.append(int(name))
        except OSError:
            continue  # it ended, or it is not ours to see
    return found


def is_recovering(folder: Path) -> bool:
    """Whether a server works there that replays WAL: a standby, which accepts no writes."""
    for pid in workers_of(folder):
        with contextlib.suppress(OSError):
            title = Path(f"/proc/{pid}/cmdline").read_bytes()
            if b": startup " in title or title.startswith(b"postgres: startup"):
                return True
    return False


def listeners(host: str, port: int, names: object = None) -> list[int]:
    """Living processes (of one of ``names``) with a socket that listens at host:port, or at any address of it."""
    inodes = _listening_inodes(host, port)
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208
        if not name.isdigit() or not inodes:
            continue
        with contextlib.suppress(OSError), os.scandir(f"/proc/{name}/fd") as descriptors:
            for descriptor in descriptors:
                with contextlib.suppress(OSError):
                    if os.readlink(descriptor.path) in inodes:  # noqa: PTH115
                        found.append(int(name))
                        break
    if isinstance(names, list) and names:
        found = [pid for pid in found if _command(pid) in names]
    return found


def _listening_inodes(host: str, port: int) -> set[str]:
    wanted = {_hex_address(address) for address in _addresses(host)} | {"00000000", "0" * 32}
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                address, _, found_port = fields[1].partition(":")
                if fields[3] == "0A" and int(found_port, 16) == port and address in wanted:  # 0A: listening
                    inodes.add(f"socket:[{fields[9]}]")
    return inodes


def _addresses(host: str) -> set[str]:
    try:
        return {str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError:
        return set()


def _hex_address(address: str) -> str:
    if ":" in address:
        packed = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
        return "".join(f"{word:08X}" for word in struct.unpack("=4I", packed))
    return f"{struct.unpack('=I', socket.inet_aton(address))[0]:08X}"


def _command(pid: int) -> str:
    # A zombie has no working directory and no files any more, so what is found by them lives.
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _kill(find, seconds: float = 5.0) -> list[int]:  # type: ignore[no-untyped-def]
    """SIGKILL until nothing is found any more; a process in an uninterruptible wait is left after ``seconds``."""
    killed: list[int] = []
    until = now() + seconds
    while found := find():
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
        if now() > until:
            raise OSError(f"processes {found} cannot be killed: is their disk hanging?")
        time.sleep(0.005)
    return killed


def _write_files(detail: dict[str, object]) -> None:
    files = detail.get("files")
    if not isinstance(files, dict):
        return
    for path, text in files.items():
        _write_file(path, str(text))


def _write_file(path: str, text: str) -> None:
    """In one piece: a server that starts at this very moment must not find an empty file, which denies nothing."""
    found = None
    with contextlib.suppress(OSError):
        with open(path) as file:  # noqa: PTH123
            if file.read() == text:
                return
        found = os.stat(path)  # noqa: PTH116
    fresh = f"{path}.companion"
    try:
        _write_through(fresh, text, found)
        os.replace(fresh, path)  # noqa: PTH105
    except PermissionError:  # the folder or the file's owner is another one's: better in two pieces than not at all
        _write_through(path, text, None)


def _write_through(path: str, text: str, like: os.stat_result | None) -> None:
    with open(path, "w") as file:  # noqa: PTH123
        file.write(text)
        file.flush()
        if like is not None:
            os.fchmod(file.fileno(), like.st_mode & 0o7777)
            os.fchown(file.fileno(), like.st_uid, like.st_gid)
        os.fsync(file.fileno())


# -- the process --------------------------------------------------------------------------------------------------


class Companion:
    """Reads the deadlines of one state folder and acts on those that passed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._boot = boot_id()
        self._seen: tuple[int, int] | None = None
        self._plan: dict[str, object] = {}
        self._ended: dict[str, float] = {}  # store -> the deadline at which it was ended first
        self._said = ""

    def look(self) -> bool:
        """One look; False when this companion is not needed any more."""
        try:
            (self._folder / ALIVE_FILE).touch()
            self._read()
        except FileNotFoundError:
            return self._folder.is_dir()
        except (OSError, ValueError) as error:
            self.log(f"the deadlines cannot be read, the former ones hold: {error}")
        if self._plan.get("boot_id") != self._boot:
            return True
        stores = self._plan.get("stores")
        for entry in stores if isinstance(stores, list) else []:
            if now() >= entry["deadline"]:
                self._end(entry)
        return not self._plan.get("ended")

    def _read(self) -> None:
        path = self._folder / DEADLINE_FILE
        about = path.stat()
        identity = (about.st_ino, about.st_mtime_ns)
        if identity != self._seen:
            self._seen = identity
            plan = json.loads(path.read_text())
            if not isinstance(plan, dict):
                raise ValueError("an object was expected")
            self._plan = plan

    def _end(self, entry: dict[str, object]) -> None:
        name = f"{entry['group']}/{entry['store']}"
        detail = entry["detail"]
        if not isinstance(detail, dict):
            return
        again = self._ended.get(name) == entry["deadline"]
        if again and entry["kind"] == "postgres":
            folder = Path(str(detail["data_directory"]))
            if not workers_of(folder) or is_recovering(folder):  # in this order: it may be starting right now
                return
        try:
            killed = end(str(entry["kind"]), detail)
        except (OSError, KeyError, ValueError) as error:
            self.log(f"{name}: {error}")
            return
        late = now() - float(str(entry["deadline"]))
        if killed or not again:
            self.log(f"{name}: its guard did not move the deadline on; killed {killed}, {late:.2f} s after it")
        self._ended[name] = float(str(entry["deadline"]))

    def log(self, text: str) -> None:
        """One line into the folder's log, which is cut when it grows too long."""
        if text == self._said:
            return
        self._said = text
        path = self._folder / LOG_FILE
        with contextlib.suppress(OSError):
            mode = "w" if path.exists() and path.stat().st_size > LOG_LIMIT else "a"
            with path.open(mode) as file:
                file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {text}\n")


def harden() -> None:
    """Hard to kill by the kernel, first in line for a processor, never swapped out; each as far as this user may."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("-1000")
    with contextlib.suppress(OSError):
        os.nice(-15)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mlockall(3)  # MCL_CURRENT | MCL_FUTURE


def main() -> int:
    folder = Path(sys.argv[1])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    lock = os.open(folder / LOCK_FILE, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return 0  # another one is at work
    os.ftruncate(lock, 0)
    os.write(lock, f"{os.getpid()}\n".encode())
    harden()
    companion = Companion(folder)
    while True:
        try:
            if not companion.look():
                return 0
        except Exception as error:  # noqa: BLE001  # it is the last one that looks: whatever happens, it goes on
            companion.log(f"a look failed: {error!r}")
        time.sleep(POLL)


if __name__ == "__main__":
    sys.exit(main())
