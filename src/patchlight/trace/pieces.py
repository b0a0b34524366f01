"""Pieces: rows that run the same positions, and how pieces are laid end to end for one call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

FEW_TOKENS = 512  # up to so many, a call costs more than what is copied to have one less
TOKENS_PER_CALL = 2048  # matrix products at full rate, and what a block allocates stays in a processor's cache

# How the attention of a piece is fed.
RUN = 0  # by this call's own projections
KEPT = 1  # by the recipient's queries, keys and values, but for those that are new
TAKEN = 2  # not at all: what comes out of it is the recipient's


@dataclass(frozen=True)
class Piece:
    """Rows that run the same positions: `stream[i]` belongs to row `rows[i]`, from position `start` on.

    Rows that are `leaving` are held from the next layer on.
    """

    rows: Int[Tensor, "row"]
    start: int
    stream: Float[Tensor, "row position width"]
    feed: int = RUN
    leaving: bool = False

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

    @property
    def flat(self) -> Float[Tensor, "token width"]:
        """The stream, token by token."""
        return self.stream.flatten(0, 1)

    def part(self, rows: slice) -> Piece:
        """Some of the rows."""
        return replace(self, rows=self.rows[rows], stream=self.stream[rows])

    def end(self, steps: int) -> Piece:
        """The last `steps` positions at most."""
        kept = min(steps, self.size)
        return replace(self, start=self.stop - kept, stream=self.stream[:, -kept:])


def groups(rows: Int[Tensor, "row"], by: Int[Tensor, "all"]) -> Iterator[tuple[int, Int[Tensor, "some"]]]:
    """The rows that share a value of `by`, value by value in rising order."""
    for value in by[rows].unique().tolist():
        yield value, rows[by[rows] == value]


def calls(pieces: Sequence[Piece], *, together: bool) -> Iterator[list[Piece]]:
    """Cuts pieces into calls, those of one feed apart where they are many; without `together`, one piece a call."""
    few = together and sum(piece.tokens for piece in pieces) <= FEW_TOKENS
    for feeds in ((RUN, KEPT, TAKEN),) if few else ((RUN,), (KEPT, TAKEN)):
        yield from chunks([piece for piece in pieces if piece.feed in feeds], together=together)


def chunks(pieces: Sequence[Piece], *, together: bool) -> Iterator[list[Piece]]:
    """Cuts pieces into calls of about TOKENS_PER_CALL tokens; without `together`, one piece a call."""
    chunk: list[Piece] = []
    tokens = 0
    for piece in pieces:
        at = 0
        while at < len(piece.rows):
            room = max(1 if not chunk else 0, (TOKENS_PER_CALL - tokens) // piece.size)
            if room == 0 or (chunk and not together):
                yield chunk
                chunk, tokens = [], 0
                continue
            part = piece.part(slice(at, at + room))
            chunk.append(part)
            tokens += part.tokens
            at += len(part.rows)
    if chunk:
        yield chunk


def by_row(packed: Tensor, tokens: slice, count: int) -> Float[Tensor, "row head position head_dim"]:
    """`[1, head, token, head_dim]` of these tokens, which belong to `count` rows."""
    rows: Tensor = packed[0, :, tokens].unflatten(1, (count, -1))
    return rows.transpose(0, 1)
