"""The ledger: one driver, results durable before they count, and clear words where it cannot be used."""

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from patchlight.errors import EnvironmentProblem, InputError
from patchlight.store.files import FileDamaged
from patchlight.store.ledger import DATABASE, Ledger
from patchlight.store.results import Result

STUDY, UNIT = "5" * 64, "a" * 64


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "workspace") as ledger:
        yield ledger


def begun(ledger: Ledger) -> None:
    ledger.begin_study(STUDY, "Capitals", "patchlight: study/1", "capitals.yaml", "capitals")


def recorded(ledger: Ledger, value: float = 1.0) -> None:
    begun(ledger)
    ledger.plan(STUDY, [(UNIT, "sweep", "resid_pre")])
    ledger.record(UNIT, Result({"value": value}, {"effects": {"values": np.full(3, value)}}), 0.5)


def sql(ledger: Ledger, statement: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(ledger.folder / DATABASE, isolation_level=None)) as connection:
        return connection.execute(statement).fetchall()


def test_a_recorded_result_is_found_by_another_reader(ledger: Ledger) -> None:
    with ledger.driving():
        recorded(ledger)
    with Ledger(ledger.folder, create=False) as reader:
        artifact = reader.result(UNIT)
        assert artifact is not None
        assert artifact.meta == {"value": 1.0}
        assert artifact.tensors("effects")["values"].tolist() == [1.0, 1.0, 1.0]
        assert [(row.label, row.state, row.seconds) for row in reader.units(STUDY)] == [("resid_pre", "done", 0.5)]
        assert [study.title for study in reader.studies()] == ["Capitals"]


def test_a_unit_that_was_never_recorded_has_no_result(ledger: Ledger) -> None:
    assert ledger.result(UNIT) is None


def test_a_failed_unit_keeps_its_reason_and_counts_as_missing(ledger: Ledger) -> None:
    with ledger.driving():
        begun(ledger)
        ledger.plan(STUDY, [(UNIT, "sweep", "label")])
        ledger.record_failure(UNIT, "ValueError: NaN in layer 3", "the traceback", 0.1)
        [row] = ledger.units(STUDY)
        assert (row.state, row.reason) == ("failed", "ValueError: NaN in layer 3")
        assert ledger.result(UNIT) is None
        ledger.record(UNIT, Result({"ok": True}), 0.1)
        [row] = ledger.units(STUDY)
        assert (row.state, row.reason) == ("done", None)


def test_beginning_a_study_again_empties_its_plan_and_keeps_results(ledger: Ledger) -> None:
    with ledger.driving():
        recorded(ledger)
        begun(ledger)
        assert ledger.units(STUDY) == []
        ledger.plan(STUDY, [("b" * 64, "sweep", "new"), (UNIT, "sweep", "old")])
        assert [(row.label, row.state) for row in ledger.units(STUDY)] == [("new", "planned"), ("resid_pre", "done")]


def test_the_study_last_begun_is_the_last_of_the_list(ledger: Ledger) -> None:
    with ledger.driving():
        for study in ("1" * 64, "2" * 64, "1" * 64):
            ledger.begin_study(study, "title", "yaml", f"/studies/{study[0]}.yaml", study[0])
    assert [(row.id, row.file) for row in ledger.studies()] == [("2", "/studies/2.yaml"), ("1", "/studies/1.yaml")]


def test_only_planned_units_are_recorded(ledger: Ledger) -> None:
    with ledger.driving(), pytest.raises(LookupError, match="never planned"):
        ledger.record(UNIT, Result(), 0.0)


def test_only_the_driver_writes(ledger: Ledger) -> None:
    with pytest.raises(EnvironmentProblem) as caught:
        begun(ledger)
    assert caught.value.code == "store-lease-lost"


def test_scratch_outlives_a_driver_and_goes_when_the_unit_is_recorded(ledger: Ledger) -> None:
    with ledger.driving():
        (ledger.scratch(UNIT) / "checkpoint").write_text("step 10")
        (ledger.files.scratch / "tmpleftover").write_text("half a file")
    with ledger.driving():
        assert (ledger.scratch(UNIT) / "checkpoint").read_text() == "step 10"
        assert not (ledger.files.scratch / "tmpleftover").exists()
        recorded(ledger)
        assert list(ledger.files.scratch.iterdir()) == []


def test_a_second_driver_is_refused_while_the_first_lives(ledger: Ledger) -> None:
    with ledger.driving(), Ledger(ledger.folder) as second:
        with pytest.raises(EnvironmentProblem, match=f"process {os.getpid()} ") as caught, second.driving():
            raise AssertionError("two drivers")
        assert caught.value.code == "store-in-use"
    with Ledger(ledger.folder) as third, third.driving():
        recorded(third)


def test_of_many_drivers_that_start_together_one_wins(tmp_path: Path) -> None:
    winners, refused, start = [], [], threading.Barrier(8)

    def drive() -> None:
        start.wait()
        with Ledger(tmp_path / "workspace") as ledger:
            try:
                with ledger.driving():
                    winners.append(1)
                    finished.wait()
            except EnvironmentProblem as error:
                refused.append(error.code)

    finished = threading.Event()
    threads = [threading.Thread(target=drive) for _ in range(8)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 20
    while len(winners) + len(refused) < 8 and time.monotonic() < deadline:
        time.sleep(0.01)
    finished.set()
    for thread in threads:
        thread.join()
    assert (len(winners), refused) == (1, ["store-in-use"] * 7)


def test_a_dead_driver_is_taken_over_at_once(ledger: Ledger) -> None:
    program = (
        "import os, sys; from pathlib import Path; from patchlight.store.ledger import Ledger\n"
        "ledger = Ledger(Path(sys.argv[1])); lease = ledger.driving(); lease.__enter__(); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", program, ledger.folder], check=False).returncode == 9
    assert sql(ledger, "select count(*) from driver") == [(1,)]
    with ledger.driving():
        recorded(ledger)


@pytest.mark.parametrize(("silent", "taken_over"), [(5.0, False), (3600.0, True)])
def test_a_driver_on_another_machine_lives_as_long_as_its_heart_beats(
    ledger: Ledger, silent: float, taken_over: bool
) -> None:
    sql(ledger, f"insert into driver values (1, 'x', 'elsewhere', 1, 0.0, {time.time() - silent})")
    if taken_over:
        with ledger.driving():
            recorded(ledger)
    else:
        with pytest.raises(EnvironmentProblem, match="elsewhere"), ledger.driving():
            raise AssertionError("two drivers")


def test_a_process_number_given_to_another_process_is_not_the_driver(ledger: Ledger) -> None:
    with ledger.driving():
        sql(ledger, "update driver set process_started = process_started - 1000")
        with Ledger(ledger.folder) as second, second.driving():
            recorded(second)
        with pytest.raises(EnvironmentProblem) as caught:
            recorded(ledger)
        assert caught.value.code == "store-lease-lost"


def test_a_damaged_result_is_refused_by_name(ledger: Ledger) -> None:
    with ledger.driving():
        recorded(ledger)
    [file] = [path for path in ledger.files.files.rglob("*") if path.is_file()]
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(FileDamaged) as caught:
        ledger.result(UNIT)
    assert caught.value.code == "store-file-damaged"
    assert file.name in str(caught.value.where)


def test_a_changed_row_is_refused(ledger: Ledger) -> None:
    with ledger.driving():
        recorded(ledger)
    sql(ledger, "update units set result = replace(result, '1.0', '2.0')")
    with pytest.raises(FileDamaged):
        ledger.result(UNIT)


def test_a_folder_without_a_workspace_is_not_made_one_by_looking(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        Ledger(tmp_path / "nothing", create=False)
    assert caught.value.code == "store-no-workspace"
    assert not (tmp_path / "nothing").exists()


def test_a_workspace_of_a_newer_version_is_refused(ledger: Ledger) -> None:
    sql(ledger, "update workspace set schema = 99")
    with pytest.raises(EnvironmentProblem, match="schema 99") as caught:
        Ledger(ledger.folder)
    assert caught.value.code == "store-newer"


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_bytes(b"not a database, whatever its name " * 100)
    with pytest.raises(EnvironmentProblem) as caught:
        Ledger(tmp_path)
    assert caught.value.code == "store-database-damaged"


def test_a_workspace_where_a_file_stands_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EnvironmentProblem) as caught:
        Ledger(tmp_path / "file")
    assert caught.value.code == "store-not-writable"
