"""Storage faults told as what they are: a full disk, a folder that cannot be written, a damaged database."""

from __future__ import annotations

import errno
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from patchlight.errors import EnvironmentProblem, PatchlightError

FULL = {errno.ENOSPC, errno.EDQUOT}
NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}
NOT_OPENED = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR}
NEARLY_NOTHING = 1 << 16  # bytes; the shared memory file beside a database in WAL mode takes half of it


@contextmanager
def told_clearly(folder: Path) -> Iterator[None]:
    """Inside it a storage fault leaves as an `EnvironmentProblem` that names `folder`.

    Codes: `store-disk-full`, `store-not-writable`, `store-database-damaged`, `store-busy`. Any other error
    passes unchanged.
    """
    try:
        yield
    except Exception as error:
        problem = storage_problem(error, folder)
        if problem is None:
            raise
        raise problem from error


def storage_problem(error: BaseException, folder: Path) -> EnvironmentProblem | None:
    """The `EnvironmentProblem` behind an error, found along its chain of causes, or None."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, PatchlightError):
            return None
        problem = _problem_of(seen, folder)
        if problem is not None:
            return problem
        seen = seen.__cause__ or seen.__context__
    return None


def _problem_of(error: BaseException, folder: Path) -> EnvironmentProblem | None:
    if _says_disk_full(error, folder):
        return EnvironmentProblem(
            "store-disk-full",
            f"the disk is full: nothing more could be written for {folder}",
            where=str(folder),
            fix="free some space and run the same command again; everything finished so far is kept",
        )
    if isinstance(error, OSError) and error.errno in NOT_WRITABLE:
        return EnvironmentProblem(
            "store-not-writable",
            f"{error.filename or folder} cannot be written or read: {error.strerror}",
            where=str(folder),
            fix="check the owner and the permissions of the folder, or choose another workspace",
        )
    if isinstance(error, sqlite3.Error):
        return _problem_of_database(error, folder)
    return None


def _says_disk_full(error: BaseException, folder: Path) -> bool:
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    if isinstance(error, sqlite3.Error):
        code = _sqlite_code(error)
        # SQLite cannot say why it could not make a file beside its database; the disk can.
        return code == sqlite3.SQLITE_FULL or (code in NOT_OPENED and _free_bytes(folder) < NEARLY_NOTHING)
    # Writers in Rust (safetensors) wrap the system's words in an error class of their own.
    return "No space left on device" in str(error)


def _free_bytes(folder: Path) -> int:
    there = next(part for part in (folder, *folder.absolute().parents) if part.exists())
    return shutil.disk_usage(there).free


def _problem_of_database(error: sqlite3.Error, folder: Path) -> EnvironmentProblem | None:
    code = _sqlite_code(error)
    if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return EnvironmentProblem(
            "store-database-damaged",
            f"the database of this workspace is damaged: {error}",
            where=str(folder),
            fix="restore the folder from a copy, or start again in a new workspace",
        )
    if code in NOT_OPENED or code == sqlite3.SQLITE_READONLY:
        return EnvironmentProblem(
            "store-not-writable",
            f"the database of this workspace cannot be opened or written: {error}",
            where=str(folder),
            fix="check the disk, its free space and the permissions of the folder, then run again",
        )
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return EnvironmentProblem(
            "store-busy",
            "another process has held the database of this workspace for too long",
            where=str(folder),
            fix="wait until it is done, then run again",
        )
    return None


def _sqlite_code(error: sqlite3.Error) -> int:
    """The primary result code; the extended ones carry it in their low byte."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
