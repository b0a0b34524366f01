"""A copy of a workspace's database that is whole although others write meanwhile."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from patchlight.errors import InputError
from patchlight.store.faults import told_clearly
from patchlight.store.review import DATABASE


def back_up(workspace: Path, file: Path) -> None:
    """The database of the workspace is in `file`, on disk, as it was at one moment.

    Raises InputError `backup-exists` for a file that is there: a backup is never written over.
    """
    with told_clearly(file.parent):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.open("xb").close()
        except FileExistsError as error:
            what = "there is already something here"
            raise InputError("backup-exists", what, where=str(file), fix="name a new file") from error
        try:
            _copy(workspace / DATABASE, file)
        except BaseException:
            file.unlink()
            raise


def _copy(source: Path, file: Path) -> None:
    reading = sqlite3.connect(f"file:{source.resolve().as_posix()}?mode=ro", uri=True)
    with closing(reading), closing(sqlite3.connect(file)) as writing:
        reading.backup(writing)
        # As one plain file: a copy without its journal would lack what is only in there.
        writing.execute("PRAGMA journal_mode=DELETE")
    with file.open("rb") as kept:
        os.fsync(kept.fileno())
