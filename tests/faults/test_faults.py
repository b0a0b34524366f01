"""What a machine can do to a run: kill it, fill its disk, change its files. Nothing may be lost or doubled."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from patchlight.errors import EnvironmentProblem
from patchlight.store.files import FileDamaged
from patchlight.store.ledger import Ledger

sys.path.insert(0, str(Path(__file__).parent))
import driver


def digests(workspace: Path) -> list[str | None]:
    """The digest of each of the sixty results, all bytes checked."""
    with Ledger(workspace, create=False) as ledger:
        artifacts = [ledger.result(row.hash) for row in ledger.units(driver.STUDY)]
        return [artifact.digest if artifact else None for artifact in artifacts]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[str | None]:
    folder = tmp_path_factory.mktemp("undisturbed")
    driver.drive(folder / "workspace", folder / "log")
    return digests(folder / "workspace")


@pytest.mark.slow
def test_ten_kills_lose_nothing_and_double_nothing(tmp_path: Path, undisturbed: list[str | None]) -> None:
    workspace, log, chance, kills = tmp_path / "workspace", tmp_path / "log", random.Random(7), 0
    while kills < 10:
        process = subprocess.Popen(
            [sys.executable, driver.__file__, workspace, "0.03"], stdout=subprocess.PIPE, text=True
        )
        with process:
            assert process.stdout is not None
            assert process.stdout.readline() == "started\n"
            time.sleep(chance.uniform(0.0, 0.17))
            process.kill()
        assert process.returncode == -signal.SIGKILL, "the run ended before it was killed"
        kills += 1
    driver.drive(workspace, log)
    worked = [int(line) for line in log.read_text().split()]
    assert digests(workspace) == undisturbed
    assert set(worked) == set(range(driver.UNITS))
    # A kill may fall between the end of a unit's work and its record: at most that one unit works again.
    assert len(worked) <= driver.UNITS + kills
    assert list((workspace / "scratch").iterdir()) == []
    again = driver.drive(workspace, log)
    assert (again.computed, len(again.artifacts)) == (0, driver.UNITS)


def damage(file: Path, chance: random.Random) -> None:
    content = bytearray(file.read_bytes())
    if chance.random() < 0.5:
        position = chance.randrange(len(content))
        content[position] ^= 1 << chance.randrange(8)
    else:
        del content[chance.randrange(len(content)) :]
    file.write_bytes(content)


def test_forty_damaged_files_are_all_found_refused_and_healed(tmp_path: Path, undisturbed: list[str | None]) -> None:
    workspace, log, chance = tmp_path / "workspace", tmp_path / "log", random.Random(11)
    driver.drive(workspace, log)
    files = sorted(path for path in (workspace / "files").rglob("*") if path.is_file())
    damaged = {file.name for file in chance.sample(files, 40)}
    for file in files:
        if file.name in damaged:
            damage(file, chance)
    refused, touched = set(), 0
    with Ledger(workspace) as ledger:
        for row in ledger.units(driver.STUDY):
            try:
                ledger.result(row.hash)
            except FileDamaged as error:
                refused.add(Path(str(error.where)).name)
                touched += 1
        assert {name for name in damaged if not ledger.files.intact(name)} == damaged
    assert refused <= damaged
    assert driver.drive(workspace, log).computed == touched
    assert digests(workspace) == undisturbed


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 6 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("this machine has no `mount`")
    if mounted.returncode:
        pytest.skip(f"a small disk needs the right to mount one: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_anywhere_is_told_and_the_run_goes_on_later(
    small_disk: Path, tmp_path: Path, undisturbed: list[str | None]
) -> None:
    workspace, log, ballast = small_disk / "workspace", tmp_path / "log", small_disk / "ballast"
    stops = 0
    for free in [0, 4, 8, 12, 16, 20, 28, 36, 44, 52, 60, 76, 92, 108, 124, 140, 180, 220, 260, 300]:
        with ballast.open("wb", buffering=0) as stream:
            room = 4096 * (free // 4)
            try:
                while stream.write(b"b" * 4096):
                    pass
            except OSError:
                stream.truncate(max(0, stream.tell() - room))
        with pytest.raises(EnvironmentProblem) as caught:
            driver.drive(workspace, log)
        assert caught.value.code == "store-disk-full", free
        stops += 1
        ballast.unlink()
    driver.drive(workspace, log)
    assert stops == 20
    assert digests(workspace) == undisturbed
