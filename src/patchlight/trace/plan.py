"""How each row of a pass begins: the layer from which its stream is held, and the least that has to run before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from patchlight.trace.pieces import KEPT, RUN, TAKEN
from patchlight.trace.rows import OWN_POSITION, RESID, Rows, among

if TYPE_CHECKING:
    from collections.abc import Collection

    from jaxtyping import Bool, Int
    from torch import Tensor

    from patchlight.model.anatomy import Model

BEHIND_ATTENTION = ("head_out", "attn_out", "resid_mid", "mlp_hidden", "mlp_out")


def needed(components: str | Collection[str], model: Model) -> tuple[set[str], set[str]]:
    """What `capture` should keep of a recipient and of a donor, so that a component, or several, can be replaced.

    The engine gives the same values whatever else the recipient's run holds, with more work.
    """
    recipient, donor = {"q", "k", "v"} if model.family.interface else {"k", "v"}, set()
    for component in {components} if isinstance(components, str) else components:
        if component == "mlp_out" or (component == "attn_out" and model.parallel):
            recipient.add(component)  # enters by its difference
        elif component in ("head_out", "attn_out", "resid_mid", "mlp_hidden"):
            recipient.add("head_out")  # what comes out of attention stays
        if component not in ("embed", "resid_pre", "resid_post", "final_norm", "logits"):
            donor.add(component)
    return recipient, donor


def shares(rows: Rows, n_layers: int, length: int, count: int, tokens: int) -> list[Int[Tensor, "some"]]:
    """Cuts rows, in order, into parts of at most so many tokens, and into `count` shares of equal work at least."""
    size = length - rows.first(rows.position)
    work = (size * (n_layers + 1 - rows.first(rows.layer))).cumsum(0)
    share = (work - 1) * count // work[-1:]
    full = (size.cumsum(0) - 1) // max(length, tokens)
    part = share * len(size) + full
    return [(part == number).nonzero().squeeze(1) for number in part.unique()]


@dataclass(frozen=True)
class Plan:
    """For each row: where it joins, and how.

    `join` is the layer of its first replacement, `start` the first position that runs. Its stream is held from layer
    `enter` on, where its attention is fed as `feed` says. At first the stream differs from the recipient's at
    `position` alone, or (-1) nowhere that is known. A row that is `early` runs that one position in `join`, and
    enters in the next layer; one that is `known` does so without running anything. `by_stream` says that a
    replacement of the stream itself makes the difference, `late` that attention gives what it gave the recipient.
    """

    join: Int[Tensor, "row"]
    start: Int[Tensor, "row"]
    enter: Int[Tensor, "row"]
    feed: Int[Tensor, "row"]
    position: Int[Tensor, "row"]
    early: Bool[Tensor, "row"]
    known: Bool[Tensor, "row"]
    by_stream: Bool[Tensor, "row"]
    late: Bool[Tensor, "row"]

    @staticmethod
    def of(rows: Rows, model: Model, captured: Collection[str]) -> Plan:
        """The plan of rows that each replace something; `captured` is what the recipient's run holds."""
        join, at = rows.first(rows.layer), _AtJoin(rows)
        last_word = ("mlp_out", "attn_out") if model.parallel else ("mlp_out",)  # nothing in the block reads it
        known = at.only([name for name in last_word if name in captured]) & (at.count == 1)
        early = at.only(OWN_POSITION) & at.single & ~known
        late = at.only(BEHIND_ATTENTION) & ("head_out" in captured) & model.family.interface
        by_stream = at.any(("resid_pre",)) & (at.stream_low == at.stream_high)
        enter = join + (known | early).long()
        kept = {"q", "k", "v"} <= set(captured) and model.family.interface
        feed = torch.full_like(join, RUN)
        if kept:
            feed[known | early | by_stream | ~at.any(("resid_pre",))] = KEPT
        feed[late & ~known & ~early] = TAKEN
        # A stream replaced again where the row enters differs at more than one position.
        again = rows.row[(rows.component == RESID) & (rows.layer == enter[rows.row]) & (enter > join)[rows.row]]
        feed[again] = RUN
        position = torch.where(known | early, at.low, torch.where(by_stream, at.stream_low, -1))
        return Plan(join, rows.first(rows.position), enter, feed, position, early, known, by_stream, late)


class _AtJoin:
    """What the rows replace in the layer in which they join."""

    def __init__(self, rows: Rows) -> None:
        self.n = len(rows.pair)
        first = rows.layer == rows.first(rows.layer)[rows.row]
        self.row, self.component = rows.row[first], rows.component[first]
        position = rows.position[first]
        self.count = torch.bincount(self.row, minlength=self.n)
        self.low, self.high = self._span(self.row, position)
        self.single = self.low == self.high
        stream = self.component == RESID
        self.stream_low, self.stream_high = self._span(self.row[stream], position[stream])

    def any(self, names: Collection[str]) -> Bool[Tensor, "row"]:
        """Which rows replace one of these components."""
        return torch.bincount(self.row[among(self.component, tuple(names))], minlength=self.n) > 0

    def only(self, names: Collection[str]) -> Bool[Tensor, "row"]:
        """Which rows replace none but these components, whole or in part."""
        return torch.bincount(self.row[among(self.component, tuple(names))], minlength=self.n) == self.count

    def _span(self, row: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        none = torch.full((self.n,), -1)
        low = none.scatter_reduce(0, row, position, "amin", include_self=False)
        return low, none.scatter_reduce(0, row, position, "amax", include_self=False)
