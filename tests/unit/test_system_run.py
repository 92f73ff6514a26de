"""``tests/system/run`` leaves out what lacks its tools, by name, runs everything else, and says which it was."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

RUN = Path(__file__).parents[1] / "system" / "run"
SYSTEM = "tests/system/"
TOOLS = ("age", "zstd", "promtool", "named", "pgbouncer", "etcd", "ip", "nft", "redis-server", "java", "nats", "minio")
NOTED = 'echo "$*" >> asked.txt; case "$*" in *"$FAILS"*) exit 1 ;; esac'


@dataclass
class Machine:
    """A tree with the script in it, and a path with nothing but these programs."""

    root: Path

    def lacks(self, *tools: str) -> None:
        for tool in tools:
            (self.root / "bin" / tool).unlink()

    def run(self, fails: str = "nothing") -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": str(self.root / "bin"),
            "RECOVERY_SEARCH_SERVERS": str(self.root / "servers"),
            "FAILS": fails,
        }
        return subprocess.run(
            [self.root / "tests/system/run"], env=environment, capture_output=True, text=True, check=False, cwd="/"
        )

    @property
    def asked(self) -> list[str]:
        return (self.root / "asked.txt").read_text().splitlines()


def program(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """With every tool but PostgreSQL's amcheck, which is looked for where Debian has it."""
    (tmp_path / "tests/system").mkdir(parents=True)
    shutil.copy(RUN, tmp_path / "tests/system/run")
    program(tmp_path / ".venv/bin/python", NOTED)
    for name, body in {"id": "echo 0", "make": "", "unshare": 'shift; exec "$@"', **dict.fromkeys(TOOLS, "")}.items():
        program(tmp_path / "bin" / name, body)
    for name in ("bash", "dirname"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name) or name)
    for product in ("opensearch", "elasticsearch"):
        program(tmp_path / f"servers/{product}-1/bin/{product}", "")
    return Machine(tmp_path)


def has_amcheck() -> bool:
    return any(Path("/usr/lib/postgresql").glob("*/lib/amcheck.so"))


def test_what_lacks_its_tools_is_left_out_by_name_and_the_rest_runs(machine: Machine) -> None:
    machine.lacks("pgbouncer", "nft")
    done = machine.run()
    assert done.returncode == 2
    assert len(machine.asked) == 1, "no packets are dropped without nftables"
    for left_out in ("test_pgbouncer.py", "test_partitions.py"):
        assert f"--ignore={SYSTEM}{left_out}" in machine.asked[0]
        assert SYSTEM + left_out in done.stderr.splitlines()[-1]
    assert "test_restore_by_hand.py" not in machine.asked[0]
    assert "apt-get install" in done.stderr
    assert {"pgbouncer", "nftables"} <= set(done.stderr.split())


def test_a_failure_is_a_failure_whatever_was_left_out(machine: Machine) -> None:
    machine.lacks("age")
    assert machine.run(fails="pytest").returncode == 1


def test_with_everything_at_hand_nothing_is_left_out(machine: Machine) -> None:
    done = machine.run()
    first, partitions = machine.asked
    assert first.split("--ignore=")[-1] == f"{SYSTEM}test_partitions.py"
    assert partitions.endswith(f"{SYSTEM}test_partitions.py")
    assert done.returncode == (0 if has_amcheck() else 2)
    assert machine.run(fails=f"system {SYSTEM}test_partitions.py").returncode == 1, "in the namespace, too"


def test_search_engines_that_were_not_fetched_are_named(machine: Machine) -> None:
    shutil.rmtree(machine.root / "servers/opensearch-1")
    done = machine.run()
    assert done.returncode == 2
    assert "holds no opensearch: tests/system/get_search_servers" in done.stderr
    assert f"--ignore={SYSTEM}test_search.py" in machine.asked[0]


def test_the_nats_command_which_no_package_has_is_named(machine: Machine) -> None:
    machine.lacks("nats")
    done = machine.run()
    assert done.returncode == 2
    assert "no nats on the PATH" in done.stderr and "apt-get install nats" not in done.stderr
    assert f"--ignore={SYSTEM}test_streams_by_hand.py" in machine.asked[0]
    assert f"--ignore={SYSTEM}test_page_by_hand.py" not in machine.asked[0]


def test_without_root_nothing_runs(machine: Machine) -> None:
    program(machine.root / "bin/id", "echo 1000")
    done = machine.run()
    assert (done.returncode, done.stderr.startswith("make test-system needs root")) == (2, True)
    assert not (machine.root / "asked.txt").exists()
