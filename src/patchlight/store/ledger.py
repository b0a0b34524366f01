"""The ledger of a workspace: which units of work are done, what they gave, and which studies they serve."""

from __future__ import annotations

import hashlib
import shutil
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection, delete, func, select, update
from sqlalchemy.dialects.sqlite import insert

from patchlight.errors import InputError
from patchlight.store.database import open_database, reading, studies, study_units, units, writing
from patchlight.store.faults import told_clearly
from patchlight.store.files import FileStore
from patchlight.store.lease import Driver, driver_of, held_lease, require_lease
from patchlight.store.results import Artifact, Result, keep, opened

DATABASE = "patchlight.sqlite"


@dataclass(frozen=True)
class StudyRow:
    """A study as it was last begun here; `file` is where its YAML lay, `begun` in seconds since 1970."""

    hash: str
    id: str
    title: str
    yaml: str
    file: str
    begun: float


@dataclass(frozen=True)
class UnitRow:
    """A unit of work as the ledger has it; `state` is planned, done or failed, `seconds` its wall time."""

    hash: str
    stage: str
    label: str
    state: str
    reason: str | None
    seconds: float | None
    finished: float | None
    host: str | None


class Ledger:
    """What a workspace folder holds. Anyone may read; only the process inside `driving()` writes.

    Raises `InputError` `store-no-workspace` where `create` is False and the folder holds no workspace, and
    `EnvironmentProblem` for a full disk, a folder that cannot be written, a newer or damaged database.
    """

    def __init__(self, folder: Path, *, create: bool = True) -> None:
        self.folder = folder.resolve()
        database = self.folder / DATABASE
        if not create and not database.is_file():
            raise InputError(
                "store-no-workspace",
                "there is no workspace in this folder",
                where=str(folder),
                fix="give the folder that `patchlight run` wrote to",
            )
        with told_clearly(self.folder):
            self.files = FileStore(self.folder)
            self._engine = open_database(database)
        self._token = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """The database is closed."""
        self._engine.dispose()

    @contextmanager
    def driving(self) -> Iterator[None]:
        """Inside it this process alone may write. Raises `store-in-use` while another one does."""
        with told_clearly(self.folder), held_lease(self._engine) as self._token:
            self.files.clear_unfinished()
            yield

    def driver(self) -> Driver | None:
        """The process that works in this workspace now; None where none does."""
        with told_clearly(self.folder), reading(self._engine) as connection:
            return driver_of(connection)

    def begin_study(self, study: str, title: str, yaml: str, file: str, study_id: str) -> None:
        """The study with this hash is known and its list of units is empty. Earlier results stay."""
        row = {"id": study_id, "title": title, "yaml": yaml, "file": file, "begun": time.time()}
        with self._writing() as connection:
            known = insert(studies).values(hash=study, **row).on_conflict_do_update(["hash"], set_=row)
            connection.execute(known)
            connection.execute(delete(study_units).where(study_units.c.study == study))

    def plan(self, study: str, planned: Iterable[tuple[str, str, str]]) -> None:
        """These units (hash, stage, label) belong to the study, in this order after those it has."""
        with self._writing() as connection:
            used = select(func.count()).select_from(study_units).where(study_units.c.study == study)
            start = connection.scalar(used) or 0
            for ordinal, (unit, stage, label) in enumerate(planned, start):
                row = {"hash": unit, "stage": stage, "label": label, "state": "planned"}
                connection.execute(insert(units).values(row).on_conflict_do_nothing())
                link = {"study": study, "unit": unit, "ordinal": ordinal}
                connection.execute(insert(study_units).values(link).on_conflict_do_nothing())

    def result(self, unit: str) -> Artifact | None:
        """The stored result of a unit, every byte of it checked, or None where it is not done.

        Raises `FileDamaged` (`store-file-damaged`) where stored bytes have changed or are gone.
        """
        chosen = select(units.c.result, units.c.digest).where(units.c.hash == unit, units.c.state == "done")
        with told_clearly(self.folder):
            with reading(self._engine) as connection:
                row = connection.execute(chosen).one_or_none()
            if row is None:
                return None
            artifact = opened(self.files, row.result, row.digest)
            artifact.check()
            return artifact

    def record(self, unit: str, result: Result, seconds: float) -> Artifact:
        """The stored result: its files are on disk first, then its "done" is one transaction.

        The unit must be planned. Its scratch folder is removed.
        """
        with told_clearly(self.folder):
            manifest = keep(self.files, result)
        digest = hashlib.sha256(manifest.encode()).hexdigest()
        self._finish(unit, seconds, state="done", result=manifest, digest=digest, reason=None, traceback=None)
        shutil.rmtree(self.files.scratch / unit, ignore_errors=True)
        return opened(self.files, manifest, digest)

    def record_failure(self, unit: str, reason: str, traceback: str, seconds: float) -> None:
        """The unit is known as failed, with its reason, and will be tried again by the next run."""
        self._finish(unit, seconds, state="failed", result=None, digest=None, reason=reason, traceback=traceback)

    def scratch(self, unit: str) -> Path:
        """A unit's own folder while it works; it outlives a kill, so that long work can go on from it."""
        with told_clearly(self.folder):
            folder = self.files.scratch / unit
            folder.mkdir(exist_ok=True)
            return folder

    def studies(self) -> list[StudyRow]:
        """The studies of this workspace, the one last begun at the end."""
        with told_clearly(self.folder), reading(self._engine) as connection:
            rows = connection.execute(select(studies).order_by(studies.c.begun))
            return [StudyRow(**row._mapping) for row in rows]

    def units(self, study: str) -> list[UnitRow]:
        """The units of a study in the order of its plan; no result is read."""
        columns = [units.c[name] for name in UnitRow.__dataclass_fields__]
        chosen = select(*columns).join(study_units, study_units.c.unit == units.c.hash)
        chosen = chosen.where(study_units.c.study == study).order_by(study_units.c.ordinal)
        with told_clearly(self.folder), reading(self._engine) as connection:
            return [UnitRow(**row._mapping) for row in connection.execute(chosen)]

    def _finish(self, unit: str, seconds: float, **values: Any) -> None:
        with self._writing() as connection:
            row = {**values, "seconds": seconds, "finished": time.time(), "host": socket.gethostname()}
            changed = connection.execute(update(units).where(units.c.hash == unit).values(row))
            if changed.rowcount != 1:
                raise LookupError(f"unit {unit} was never planned")

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with told_clearly(self.folder), writing(self._engine) as connection:
            require_lease(connection, self._token)
            yield connection
