"""The streams of a pass: each row's, from the layer on in which it enters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from patchlight.trace.pieces import RUN, Piece, groups

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from patchlight.trace.plan import Plan

FEEDS = 3


class Held:
    """Rows of one start lie together in one buffer, in the order in which they enter."""

    def __init__(self, plan: Plan, length: int, n_layers: int, like: Float[Tensor, "... width"]) -> None:
        self.plan = plan
        self.rows: dict[int, Tensor] = {}
        self.keys: dict[int, Tensor] = {}
        self.streams: dict[int, Tensor] = {}
        self.slot = torch.zeros_like(plan.start)
        key = plan.enter * FEEDS + plan.feed
        inside = (plan.enter < n_layers).nonzero().squeeze(1)
        for start, rows in groups(inside, plan.start):
            ordered = rows[key[rows].argsort(stable=True)]
            self.rows[start], self.keys[start] = ordered, key[ordered].contiguous()
            self.streams[start] = like.new_empty(len(rows), length - start, like.shape[-1])
            self.slot[ordered] = torch.arange(len(rows))

    def enter(
        self, layer: int, before: Float[Tensor, "prompt position width"], pair: Int[Tensor, "row"], new: New
    ) -> None:
        """Rows that enter go on from the recipient's stream before the layer, with their new vectors in it."""
        for start, rows in self.rows.items():
            part = self._slice(start, layer * FEEDS, (layer + 1) * FEEDS)
            entering, stream = rows[part], self.streams[start][part]
            torch.index_select(before[:, start:], 0, pair[entering].to(before.device), out=stream)
            index = new.index[entering]
            changed = (index >= 0).nonzero().squeeze(1)
            place = self.plan.position[entering[changed]] - start
            stream[changed, place] = new.vectors[index[changed]]

    def put(
        self, rows: Int[Tensor, "some"], position: Int[Tensor, "some"], vectors: Float[Tensor, "some width"]
    ) -> None:
        """Replaces the stream of rows that have entered, one position each."""
        for start, chosen in groups(torch.arange(len(rows)), self.plan.start[rows]):
            self.streams[start][self.slot[rows[chosen]], position[chosen] - start] = vectors[chosen]

    def pieces(self, layer: int) -> list[Piece]:
        """Every row that has entered, those that enter in this layer apart."""
        found = []
        for start, rows in self.rows.items():
            bounds = [(0, layer * FEEDS, RUN), *((layer * FEEDS + f, layer * FEEDS + f + 1, f) for f in range(FEEDS))]
            for low, high, feed in bounds:
                part = self._slice(start, low, high)
                if part.stop > part.start:
                    found.append(Piece(rows[part], start, self.streams[start][part], feed))
        return found

    def _slice(self, start: int, low: int, high: int) -> slice:
        first, stop = torch.searchsorted(self.keys[start], torch.tensor([low, high])).tolist()
        return slice(first, stop)


class New:
    """Vectors that change the streams of some rows: `vectors[index[row]]`, where `index` is not negative."""

    def __init__(self, rows: Int[Tensor, "some"], vectors: Float[Tensor, "some width"], count: int) -> None:
        self.rows, self.vectors = rows, vectors
        self.index = torch.full((count,), -1)
        self.index[rows] = torch.arange(len(rows))
