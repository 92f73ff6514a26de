"""Every command that the README shows, run in its order on a lab whose regions have the README's names.

Two things differ: ports of metrics are free ones, so that several tests can run at once, and what asks a person at a
terminal is given --yes.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from drctl.demo.guarded import FailoverTimes, GuardedInstallation, install_guarded
from drctl.demo.installation import GROUP, install
from lab import Lab
from lab.control import python_environment
from lab.processes import die_with
from lab.shop import load_shop
from lab.state import OUTSIDE

README = Path(__file__).parents[2] / "README.md"
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
LINES: list[str] = [line for block in BLOCKS for line in block.splitlines() if line.startswith("drctl ")]
GUARDED = ("guard", "monitor", "regions", "health", "replication", "switchover", "failback", "failover", "reprotect")
"""What needs standbys and guards: run on a lab of its own."""
HOME, AWAY = "us-east-1", "eu-west-1"
SERVICES = {"postgres", "s3", "app", "witness", "temporal", "dns", "webhook"}
STARTS, ENDS = 60.0, 120.0  # seconds


class Terminal:
    """Runs lines of the README in the installation's folder, and knows which were run."""

    def __init__(self, folder: Path, *, guarded: bool = False) -> None:
        self.folder = folder
        self.left = [line for line in LINES if (line.split()[1] in GUARDED) is guarded]

    def line(self, beginning: str) -> str:
        """The README's next line that begins so."""
        found = next((line for line in self.left if line.startswith(f"drctl {beginning}")), None)
        assert found is not None, f"the README no longer shows drctl {beginning}: take it out of this test"
        self.left.remove(found)
        return found

    async def start(self, line: str) -> asyncio.subprocess.Process:
        arguments = shlex.split(re.sub(r"--metrics-port \d+", "--metrics-port 0", line))[1:]
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "drctl", *arguments),
            cwd=self.folder,
            env={**os.environ, **python_environment(), "COLUMNS": "120"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            preexec_fn=die_with(os.getpid()),
        )

    async def run(self, beginning: str, code: int = 0, more: str = "") -> str:
        """Runs a line to its end and returns what it said."""
        process = await self.start(f"{self.line(beginning)} {more}")
        return await ended(process, code)

    @asynccontextmanager
    async def running(self, beginning: str, ready: str) -> AsyncIterator[None]:
        """A line that runs until it is told to stop."""
        process = await self.start(self.line(beginning))
        assert process.stdout is not None
        try:
            said = ""
            async with asyncio.timeout(STARTS):
                while ready not in said:
                    read = await process.stdout.readline()
                    assert read, f"it ended: {said}"
                    said += read.decode()
            yield
        finally:
            if process.returncode is None:
                process.terminate()
            await ended(process, 0)


async def ended(process: asyncio.subprocess.Process, code: int) -> str:
    async with asyncio.timeout(ENDS):
        said = (await process.communicate())[0].decode()
    assert process.returncode == code, said
    return said


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with await Lab.start(regions=(HOME, AWAY), standby="none", services=SERVICES) as running:
        await load_shop(running.postgres(HOME).dsn(), 8)
        yield running


@pytest.fixture
def terminal(lab: Lab) -> Terminal:
    """A folder with the lab's ``recovery.yaml``, in which recoveries need an approval."""
    folder = lab.folder / "installation"  # PostgreSQL's user can pass through it
    file = install(lab, folder).config_file
    document = YAML().load(file)
    document["groups"][GROUP]["approvals"] = {"require": True, "timeout": "2m"}
    document["monitoring"] = {"metrics": {"port": 0}}
    YAML().dump(document, file)
    return Terminal(folder)


async def test_the_readmes_commands_do_what_it_says(lab: Lab, terminal: Terminal) -> None:
    assert "recipients" in await terminal.run("keys generate")
    await terminal.run("config check")
    await terminal.run("locations check")
    async with terminal.running("up", "is ready"):
        assert "VALID" in await terminal.run("backup run --validate")
        assert "physical" in await terminal.run("backup list")
        assert "drctl recover" in await terminal.run("catalogue")
        assert "open-writes" in await terminal.run("plan show FullRecovery")
        assert GROUP in await terminal.run("status")
        await recovered(lab, terminal)
        async with (
            terminal.running(f"worker --region {HOME}", "is ready"),
            terminal.running(f"worker --region {AWAY}", "is ready"),
        ):
            await terminal.run("schedules apply")
        await nothing_to_answer(terminal)
        assert "shop_copy" in await terminal.run("restore --target-database")
        await terminal.run("retention --dry-run")
    assert terminal.left == [], "these lines of the README are not run by this test"


async def recovered(lab: Lab, terminal: Terminal) -> None:
    await lab.kill(HOME, with_disks=True)
    recovery = await terminal.start(f"{terminal.line('recover ')} --yes")
    await until_it_waits(terminal, recovery)
    await terminal.run("pause")
    await terminal.run("resume")
    watching = await terminal.start(terminal.line("status shop --watch"))
    await terminal.run("approve")
    await ended(watching, 0)
    assert "eu-west-1" in await ended(recovery, 0)
    await terminal.run("report")
    assert "<html" in (terminal.folder / "report.html").read_text()


async def until_it_waits(terminal: Terminal, recovery: asyncio.subprocess.Process) -> None:
    """Asks, as a person would, until the run waits for its approval."""
    said = ""
    deadline = asyncio.get_running_loop().time() + STARTS
    while "waiting" not in said:
        assert recovery.returncode is None, await ended(recovery, 0)
        assert asyncio.get_running_loop().time() < deadline, said
        said = await ended(await terminal.start("drctl status shop --output json"), 0)


async def nothing_to_answer(terminal: Terminal) -> None:
    """Without a run that waits, the operator's answers are refused with a sentence."""
    for answer in ("retry", "skip", "abort"):
        assert GROUP in await terminal.run(answer, code=2)
    assert GROUP in await terminal.run("release")


@pytest.fixture
async def guarded() -> AsyncIterator[tuple[Lab, GuardedInstallation]]:
    """Two regions that follow each other. Nothing is started by monitors: the README's reader does it."""
    async with await Lab.start(regions=(HOME, AWAY), guarded=True) as running:
        await load_shop(running.postgres(HOME).dsn(), 8)
        times = FailoverTimes(policy="manual")
        yield running, await asyncio.to_thread(install_guarded, running, running.folder / "installation", times)


def terminal_at(place: str, installation: GuardedInstallation) -> Terminal:
    """A shell at a place, with that place's configuration as its ``recovery.yaml``."""
    folder = installation.folder / f"at-{place}"
    folder.mkdir()
    shutil.copy(installation.for_vantage(place), folder / "recovery.yaml")
    return Terminal(folder, guarded=True)


async def test_the_readmes_commands_for_guarded_groups_do_what_it_says(
    guarded: tuple[Lab, GuardedInstallation],
) -> None:
    lab, installation = guarded
    await lab.hand_over()
    home, outside = terminal_at(HOME, installation), terminal_at(OUTSIDE, installation)
    await installation.start_one(lab, AWAY, "guard")
    async with home.running("guard", "is ready"):
        await asyncio.gather(*(installation.start_one(lab, place, "worker") for place in (HOME, AWAY, OUTSIDE)))
        outside.line("guard")
        async with outside.running("monitor", "looks at"):
            await until_owned(outside, HOME)
            for question in ("regions", "health", "replication"):
                assert HOME in await outside.run(question)
            await outside.run("switchover", more="--yes")
            await until_owned(outside, AWAY)
            await outside.run("failback", more="--yes")
            await until_owned(outside, HOME)
            await lab.kill(HOME, "postgres")
            await outside.run("failover", more="--yes")
            await until_owned(outside, AWAY)
            # Its guard may have made a standby of it already; a region that is named is looked at all the same.
            await outside.run("reprotect", more=f"--yes --to {HOME}")
    assert outside.left == [], "these lines of the README are not run by this test"


async def until_owned(terminal: Terminal, region: str) -> None:
    """Asks, as a person would, until a region owns the group and its stores are primary there."""
    said = ""
    deadline = asyncio.get_running_loop().time() + STARTS
    while True:
        said = await ended(await terminal.start("drctl regions --output json"), 0)
        (line,) = (entry for entry in json.loads(said) if entry["region"] == region)
        roles = {store["role"] for store in line["stores"]}
        if line["owns"] and roles == {"primary"}:
            return
        assert asyncio.get_running_loop().time() < deadline, said
