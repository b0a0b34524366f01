"""What a unit of work gives back, and how it is kept: Parquet tables, safetensors, folders. Never pickle."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import safetensors.numpy
from pyarrow import parquet

from patchlight.store.files import FileDamaged, FileStore

Tensors = Mapping[str, np.ndarray[Any, Any]]
Part = pd.DataFrame | Tensors | Path


@dataclass(frozen=True)
class Result:
    """What a unit of work gives back: small JSON facts, and named parts.

    A part is a table (DataFrame; its index is not kept), named tensors (arrays of any shape, kept bit for
    bit) or a folder (its files are copied into the store).
    """

    meta: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, Part] = field(default_factory=dict)


@dataclass(frozen=True)
class Artifact:
    """A stored result; `digest` is equal exactly where meta and every byte of every part are equal."""

    meta: Mapping[str, Any]
    digest: str
    parts: Mapping[str, Mapping[str, Any]]
    files: FileStore = field(repr=False, compare=False)

    def table(self, name: str) -> pd.DataFrame:
        """A table as it was stored. Raises `FileDamaged`, and KeyError for a name that is not a table's."""
        table: pd.DataFrame = parquet.read_table(io.BytesIO(self._read(name, "table"))).to_pandas()
        return table

    def tensors(self, name: str) -> dict[str, np.ndarray[Any, Any]]:
        """Arrays by name, bit for bit as stored. Raises `FileDamaged`, and KeyError as `table` does."""
        return safetensors.numpy.load(self._read(name, "tensors"))

    def folder(self, name: str) -> Path:
        """A folder with the files as they were stored; it belongs to the store and is only to be read."""
        files = self._part(name, "folder")["files"]
        return self.files.materialise(hashlib.sha256(canonical_json(files).encode()).hexdigest(), files)

    def check(self) -> None:
        """Raises `FileDamaged` at the first file that is missing or whose bytes have changed."""
        for part in self.parts.values():
            for digest in part["files"].values():
                self.files.check(digest)

    def _part(self, name: str, kind: str) -> Mapping[str, Any]:
        part = self.parts.get(name)
        if part is None or part["kind"] != kind:
            raise KeyError(f"no {kind} {name!r} among {sorted(self.parts)}")
        return part

    def _read(self, name: str, kind: str) -> bytes:
        [digest] = self._part(name, kind)["files"].values()
        return self.files.read(digest)


def keep(files: FileStore, result: Result) -> str:
    """The manifest (canonical JSON) of a result whose files are all on disk when this returns."""
    parts = {name: _keep_part(files, part) for name, part in result.parts.items()}
    return canonical_json({"meta": result.meta, "parts": parts})


def opened(files: FileStore, manifest: str, digest: str) -> Artifact:
    """The stored result that a manifest describes; raises `FileDamaged` where that is not as written."""
    if hashlib.sha256(manifest.encode()).hexdigest() != digest:
        raise FileDamaged(
            "store-file-damaged",
            "the record of a result has changed since it was written",
            fix="run the study again: what is damaged is computed anew, everything else is kept",
        )
    content = json.loads(manifest)
    return Artifact(content["meta"], digest, content["parts"], files)


def canonical_json(value: object) -> str:
    """The one JSON text of a value: keys sorted, no spaces. Raises ValueError for NaN and infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _keep_part(files: FileStore, part: Part) -> dict[str, Any]:
    if isinstance(part, Path):
        return {"kind": "folder", "files": files.put_folder(part)}
    if isinstance(part, pd.DataFrame):
        return {"kind": "table", "files": {"table.parquet": files.put(_parquet(part))}}
    arrays = {name: np.ascontiguousarray(array) for name, array in part.items()}
    return {"kind": "tensors", "files": {"tensors.safetensors": files.put(safetensors.numpy.save(arrays))}}


def _parquet(table: pd.DataFrame) -> bytes:
    stream = io.BytesIO()
    parquet.write_table(pa.Table.from_pandas(table, preserve_index=False), stream, compression="zstd")
    return stream.getvalue()
