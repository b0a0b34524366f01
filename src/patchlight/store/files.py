"""Content-addressed files: each is named by the SHA-256 of its bytes and checked whenever it is read."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from patchlight.errors import EnvironmentProblem

CHUNK = 1 << 20
DIGEST = re.compile(r"[0-9a-f]{64}")


class FileDamaged(EnvironmentProblem):
    """A stored file is missing, or its bytes are not those that were stored."""


class FileStore:
    """The stored files of a workspace, below `folder/files`; `folder/scratch` holds what is not finished."""

    def __init__(self, folder: Path) -> None:
        self.files = folder / "files"
        self.folders = folder / "folders"
        self.scratch = folder / "scratch"
        for part in (self.files, self.folders, self.scratch):
            part.mkdir(parents=True, exist_ok=True)

    def put(self, content: bytes | Path) -> str:
        """The digest of `content` (bytes, or a file to copy), which is on disk when this returns."""
        with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as source:
            temporary, digest = self._write_temporary(source)
        try:
            if not self.intact(digest):
                self._rename(temporary, self.path(digest))
        finally:
            temporary.unlink(missing_ok=True)
        return digest

    def put_folder(self, folder: Path) -> dict[str, str]:
        """The digest of each file below `folder`, by its path with forward slashes; all are on disk then."""
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): self.put(path) for path in files}

    def path(self, digest: str) -> Path:
        """Where the file with this digest lies, whether or not it is there."""
        if not DIGEST.fullmatch(digest):
            raise FileDamaged("store-file-damaged", f"{digest!r} is not the name of a stored file")
        return self.files / digest[:2] / digest

    def intact(self, digest: str) -> bool:
        """Whether the file is there and its bytes still have this digest."""
        try:
            with self.path(digest).open("rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest() == digest
        except FileNotFoundError:
            return False

    def check(self, digest: str) -> Path:
        """The path of a file whose bytes were compared with its digest; raises `FileDamaged`."""
        path = self.path(digest)
        if not self.intact(digest):
            raise FileDamaged(
                "store-file-damaged",
                "a stored result is missing or its bytes have changed since it was written",
                where=str(path),
                fix="run the study again: what is damaged is computed anew, everything else is kept",
            )
        return path

    def read(self, digest: str) -> bytes:
        """The bytes of a file, compared with its digest; raises `FileDamaged`."""
        content = self.check(digest).read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            raise FileDamaged("store-file-damaged", "a stored result changed while it was read", where=digest)
        return content

    def materialise(self, name: str, files: Mapping[str, str]) -> Path:
        """A folder with these checked files (path below it -> digest), made anew where anything differs."""
        sources = {inside: self.check(digest) for inside, digest in files.items()}
        target = self.folders / name
        if _holds(target, sources):
            return target
        fresh = Path(tempfile.mkdtemp(dir=self.scratch))
        for inside, source in sources.items():
            _link(source, _below(fresh, inside))
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
        return target

    def clear_unfinished(self) -> None:
        """Temporary files that a killed process left are gone. Only the driver may call it."""
        for leftover in self.scratch.glob("tmp*"):
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()

    def _write_temporary(self, source: BinaryIO) -> tuple[Path, str]:
        digest = hashlib.sha256()
        handle, name = tempfile.mkstemp(dir=self.scratch)
        try:
            with os.fdopen(handle, "wb") as stream:
                while chunk := source.read(CHUNK):
                    digest.update(chunk)
                    stream.write(chunk)
                stream.flush()
                os.fsync(stream.fileno())
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        return Path(name), digest.hexdigest()

    def _rename(self, temporary: Path, target: Path) -> None:
        target.parent.mkdir(exist_ok=True)
        temporary.replace(target)
        # A rename is durable only when the folders that name the file are on disk too.
        for folder in (target.parent, self.files):
            _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _holds(folder: Path, sources: Mapping[str, Path]) -> bool:
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return present == set(sources) and all((folder / inside).samefile(source) for inside, source in sources.items())


def _below(folder: Path, inside: str) -> Path:
    parts = PurePosixPath(inside)
    if parts.is_absolute() or ".." in parts.parts:
        raise FileDamaged("store-file-damaged", f"a stored folder names a file outside itself: {inside!r}")
    return folder / parts


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.hardlink_to(source)
    except PermissionError:  # what file systems without hard links answer
        shutil.copyfile(source, target)
