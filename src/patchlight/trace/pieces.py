"""Pieces: rows that run the same positions, and how pieces are laid end to end for one call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

TOKENS_PER_CALL = 2048  # enough for matrix products at full rate, few enough for the caches of a processor


@dataclass(frozen=True)
class Piece:
    """Rows that run the same positions: `stream[i]` belongs to row `rows[i]`, from position `start` on."""

    rows: Int[Tensor, "row"]
    start: int
    stream: Float[Tensor, "row position width"]

    @property
    def size(self) -> int:
        """Positions of each row."""
        return self.stream.shape[1]

    @property
    def stop(self) -> int:
        """The position after the last one."""
        return self.start + self.size

    @property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return len(self.rows) * self.size

    @property
    def positions(self) -> Int[Tensor, "token"]:
        """The position of each token, row by row."""
        return torch.arange(self.start, self.stop).repeat(len(self.rows))


def groups(rows: Int[Tensor, "row"], by: Int[Tensor, "all"]) -> Iterator[tuple[int, Int[Tensor, "some"]]]:
    """The rows that share a value of `by`, value by value in rising order."""
    for value in by[rows].unique().tolist():
        yield value, rows[by[rows] == value]


def chunks(pieces: Sequence[Piece], *, together: bool) -> Iterator[tuple[list[int], list[Piece]]]:
    """Cuts pieces into calls of about TOKENS_PER_CALL tokens: their numbers and their parts."""
    numbers: list[int] = []
    chunk: list[Piece] = []
    tokens = 0
    for number, piece in enumerate(pieces):
        at = 0
        while at < len(piece.rows):
            room = max(1 if not chunk else 0, (TOKENS_PER_CALL - tokens) // piece.size)
            if room == 0 or (chunk and not together):
                yield numbers, chunk
                numbers, chunk, tokens = [], [], 0
                continue
            part = Piece(piece.rows[at : at + room], piece.start, piece.stream[at : at + room])
            numbers.append(number)
            chunk.append(part)
            tokens += part.tokens
            at += len(part.rows)
    if chunk:
        yield numbers, chunk


def joined(pieces: Sequence[Piece]) -> Piece:
    """Pieces of one start as one."""
    if len(pieces) == 1:
        return pieces[0]
    rows, stream = torch.cat([piece.rows for piece in pieces]), torch.cat([piece.stream for piece in pieces])
    return Piece(rows, pieces[0].start, stream)


def by_row(packed: Tensor, tokens: slice, count: int) -> Float[Tensor, "row head position head_dim"]:
    """`[1, head, token, head_dim]` of these tokens, which belong to `count` rows."""
    rows: Tensor = packed[0, :, tokens].unflatten(1, (count, -1))
    return rows.transpose(0, 1)
