"""Runs seen and steered from a page: how far a study is, and the process that works on it.

The ledger says how far a study is and who drives it, whether from a page or from a terminal.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from patchlight.errors import EnvironmentProblem, InputError
from patchlight.run.progress import Pace
from patchlight.store.ledger import Ledger, StudyRow, UnitRow
from patchlight.web.jobs import Job, Jobs

State = Literal["starting", "running", "elsewhere", "paused", "finished", "failed"]
TAIL = 4_000  # characters of a run's output that a page shows


@dataclass(frozen=True)
class Stage:
    """The units of one stage of a study that are planned so far."""

    name: str
    done: int
    planned: int


@dataclass(frozen=True)
class Run:
    """How far a study is. `planned` counts units planned so far: later stages are planned when earlier ones are done.

    `state`: "elsewhere" is a run on another machine, "failed" one that ended with failed units. `rate` is in units per
    second of this run, `left` the likely shortest and longest rest in seconds of what is planned so far; None where
    nothing is running or nothing is done yet.
    """

    study: StudyRow
    state: State
    done: int
    planned: int
    failures: tuple[str, ...]
    stages: tuple[Stage, ...]
    rate: float | None
    left: tuple[float, float] | None


def study_named(ledger: Ledger, study: str) -> StudyRow:
    """The latest study of that id. Raises InputError `web-no-study`."""
    found = [row for row in ledger.studies() if row.id == study]
    if not found:
        raise InputError(
            "web-no-study", f"there is no study {study!r} in this workspace", fix="see the list of studies"
        )
    return found[-1]


def latest(ledger: Ledger) -> list[StudyRow]:
    """The studies, each as it was last begun, the one begun last first."""
    return list(reversed({row.id: row for row in ledger.studies()}.values()))


def run_of(ledger: Ledger, row: StudyRow, jobs: Jobs) -> Run:
    """How far a study is at this moment."""
    units = ledger.units(row.hash)
    state = _state(ledger, row, units, jobs)
    running = state in {"running", "elsewhere"}
    rate, left = pace(units, row.begun, time.time()) if running else (None, None)
    return Run(
        study=row,
        state=state,
        done=sum(unit.state == "done" for unit in units),
        planned=len(units),
        failures=tuple(f"{unit.label}: {unit.reason}" for unit in units if unit.state == "failed"),
        stages=_stages(units),
        rate=rate,
        left=left,
    )


def start(ledger: Ledger, row: StudyRow, jobs: Jobs, by: str) -> None:
    """A process of its own runs the study from its file, with the file's settings.

    Raises `EnvironmentProblem` `store-in-use` while any run works in this workspace.
    """
    if ledger.driver() is not None:
        raise EnvironmentProblem("store-in-use", "a run is already working in this workspace", fix="wait, or pause it")
    jobs.start(job_name(row.id), by, ["run", row.file, "--workspace", str(ledger.folder)])


def pause(ledger: Ledger, row: StudyRow, jobs: Jobs) -> None:
    """The run is asked to end as by Ctrl-C: finished units are kept, and the same study goes on from there.

    Raises InputError `web-no-run` where nothing runs on this machine.
    """
    driver = ledger.driver()
    if driver is not None and driver.here and _is_last_begun(ledger, row):
        os.kill(driver.pid, signal.SIGINT)
    elif _job(jobs, row.id) is not None:
        jobs.pause(job_name(row.id))
    else:
        raise InputError("web-no-run", f"no run of {row.id} works on this machine", fix="look at the page again")


def output(jobs: Jobs, study: str) -> str:
    """The end of what the last run that this server has started said; empty where it started none."""
    started = [job for job in jobs.listed() if job.name == job_name(study)]
    return started[0].text[-TAIL:].strip() if started else ""


def job_name(study: str) -> str:
    """The name of the job that runs a study; there is one at a time."""
    return f"run {study}"


def _job(jobs: Jobs, study: str) -> Job | None:
    """The running job of a study."""
    return next((job for job in jobs.listed() if job.name == job_name(study) and job.code is None), None)


def _state(ledger: Ledger, row: StudyRow, units: Sequence[UnitRow], jobs: Jobs) -> State:
    driver = ledger.driver()
    if driver is not None and _is_last_begun(ledger, row):
        return "running" if driver.here else "elsewhere"
    if _job(jobs, row.id) is not None:
        return "starting"
    states = {unit.state for unit in units}
    if (ledger.folder / "reports" / row.id / "summary.json").is_file() and "planned" not in states:
        return "failed" if "failed" in states else "finished"
    return "paused"


def _is_last_begun(ledger: Ledger, row: StudyRow) -> bool:
    return ledger.studies()[-1].hash == row.hash


def _stages(units: Sequence[UnitRow]) -> tuple[Stage, ...]:
    planned = Counter(unit.stage for unit in units)
    done = Counter(unit.stage for unit in units if unit.state == "done")
    return tuple(Stage(name, done[name], count) for name, count in planned.items())


def pace(units: Sequence[UnitRow], begun: float, now: float) -> tuple[float | None, tuple[float, float] | None]:
    """Units per second of the run that began then, and the rest in seconds, as the terminal shows them."""
    clock = [begun]
    pace = Pace(lambda: clock[0])
    moments = sorted(unit.finished for unit in units if unit.state == "done" and unit.finished is not None)
    moments = [moment for moment in moments if moment > begun]
    for done, moment in enumerate(moments, 1):
        clock[0] = moment
        pace.advance(done)
    clock[0] = now
    missing = sum(unit.state == "planned" for unit in units)
    return (pace.rate, pace.left(len(moments) + missing)) if moments else (None, None)
