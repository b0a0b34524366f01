"""What a report shows of directions within a place, and of looking beside acting: records without prose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from patchlight.judge.statistics import IntervalMap
from patchlight.records import Site

if TYPE_CHECKING:
    from collections.abc import Iterator

ENOUGH = 0.8  # of the gap


@dataclass(frozen=True)
class SubspaceRow:
    """One subspace that was patched on facts held out.

    `control` says what it is beside the real one (empty): `shuffled`, `random`, `random-init`; `row` and `null` are
    its parts that are read and not read; `whole` is all of the vector. `dormant` is the flag of the illusion audit.
    """

    method: str
    dimensions: int
    control: str = ""
    dormant: bool = False


@dataclass(frozen=True)
class SubspaceResult:
    """The subspaces of one site, each with its share of the gap (`effect[row]`) and interval over facts held out."""

    site: Site
    width: int
    readable: int  # directions that later weights read; 0 where no weight reads the site
    rows: tuple[SubspaceRow, ...]
    effect: IntervalMap
    facts: int
    pairs: int

    def smallest(self, method: str) -> int | None:
        """The index of the smallest subspace of a method that brings back 80 % of the gap; None where none does."""
        found = [
            (row.dimensions, index)
            for index, row in enumerate(self.rows)
            if row.method == method and not row.control and self.effect.estimate[index] >= ENOUGH
        ]
        return min(found)[1] if found else None

    def of(self, control: str) -> Iterator[int]:
        """The rows of a control."""
        return (index for index, row in enumerate(self.rows) if row.control == control)


@dataclass(frozen=True)
class Observed:
    """Looking beside acting at the last word, both as shares of the gap `[component, layer, (looked, acted)]`.

    Looked: what a part writes straight towards the answer (direct logit attribution, clean less corrupted). Acted: what
    comes back when the part is exchanged. `lens` is the share of the gap that the stream shows at each depth.
    """

    components: tuple[str, ...]
    shares: IntervalMap
    lens: IntervalMap
    error: float  # by how much the parts miss the logit difference at most, in logits
    facts: int
    pairs: int
