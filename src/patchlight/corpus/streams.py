"""The bytes and lines of a file, gzipped or not; all that stands before a damaged place is delivered first."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from patchlight.errors import InputError, Place

if TYPE_CHECKING:
    from zlib import _Decompress

PIECE = 1 << 16
GZIP = 16 + zlib.MAX_WBITS  # what zlib calls the gzip format
LONGEST_LINE = 1 << 25  # bytes; no document is longer, but a compressed file may pretend to


class Damage(Exception):
    """A file stops being readable; `byte` counts what was read of its (uncompressed) content."""

    def __init__(self, byte: int, reason: str) -> None:
        super().__init__(reason)
        self.byte = byte


def pieces(path: Path) -> Iterator[bytes]:
    """The uncompressed content in pieces of at most 64 KiB. Raises Damage where a gzip stops being one."""
    with path.open("rb") as opened:
        if path.name.lower().endswith(".gz"):
            yield from _inflated(opened)
        else:
            while piece := opened.read(PIECE):
                yield piece


def lines(path: Path) -> Iterator[bytes]:
    """The lines of `pieces(path)`, each with its ending. Raises Damage, also for a line of more than 32 MiB."""
    begun, read = b"", 0
    for piece in pieces(path):
        read += len(piece)
        *whole, begun = (begun + piece).split(b"\n")
        for line in whole:
            yield line + b"\n"
        if len(begun) > LONGEST_LINE:
            raise Damage(read, f"a line is longer than {LONGEST_LINE >> 20} MiB")
    if begun:
        yield begun


def damaged(path: Path, damage: Damage, *, record: int | None = None, line: int | None = None) -> InputError:
    """The error that says after which record or line, and at which byte, a file stops being readable."""
    after = f"record {record}" if line is None else f"line {line}"
    return InputError(
        "corpus-gzip-damaged",
        f"the file is damaged after {after}, byte {damage.byte} of its content: {damage}",
        where=Place(path, None if line is None else line + 1),
        fix="get it again; what stands before was read",
    )


def _inflated(opened: BinaryIO) -> Iterator[bytes]:
    inflater, waiting, read = zlib.decompressobj(GZIP), b"", 0
    while waiting := waiting or opened.read(PIECE):
        if inflater.eof:
            waiting = waiting.lstrip(b"\0")  # files may be padded with zeros, and hold one gzip after another
            inflater = zlib.decompressobj(GZIP) if waiting else inflater
            continue
        before = inflater.copy()
        try:
            piece = inflater.decompress(waiting, PIECE)
        except zlib.error as error:
            for piece in _up_to_the_error(before, waiting):
                read += len(piece)
                yield piece
            raise Damage(read, str(error)) from error
        read += len(piece)
        waiting = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
        yield piece
    if not inflater.eof:
        for piece in _drained(inflater, b""):
            read += len(piece)
            yield piece
        raise Damage(read, "it ends before its end mark")


def _up_to_the_error(inflater: _Decompress, waiting: bytes) -> Iterator[bytes]:
    """What a piece holds before its damage: zlib gives nothing of a call that fails, so it is asked byte by byte."""
    try:
        for at in range(len(waiting)):
            yield from _drained(inflater, waiting[at : at + 1])
    except zlib.error:
        return


def _drained(inflater: _Decompress, rest: bytes) -> Iterator[bytes]:
    while piece := inflater.decompress(rest, PIECE):
        rest = inflater.unconsumed_tail
        yield piece
