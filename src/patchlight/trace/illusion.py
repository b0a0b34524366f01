"""Does a subspace carry the answer by what later weights read, or only through a path that is otherwise asleep?

Makelov, Lange & Nanda 2023 (arXiv 2311.17030): split each direction into the part that the readers of the site see (row
space) and the part that they do not (null space). Where the row-space part by itself does much less than the
direction, the patch pairs a part that varies but is not read with one that is read but does not vary. Wu et al. 2024
(arXiv 2401.12631) answer that a distributed representation may look so without being an illusion: nothing is
rejected here, both readings are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from patchlight.records import Pair, Site, TokenPair
from patchlight.trace.directions import Subspace, spanned
from patchlight.trace.readers import read_directions
from patchlight.trace.subspace import patch_subspaces
from patchlight.trace.sweep import MEMORY
from patchlight.trace.vectors import METRIC, spanned_site

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from patchlight.model.anatomy import Model

LEAST = 0.1  # of the gap: below it there is no effect to explain
KEPT = 0.5  # of the effect: where the row-space part keeps less, the path is called dormant
NOTHING = 1e-6  # of a unit direction: what is shorter is rounding


@dataclass(frozen=True)
class Illusion:
    """What each subspace and its parts bring back of the gap, over all pairs (ratio of means).

    `read_share` is the squared share of the directions in the row space of the readers, `readable` how many of the
    site's `width` dimensions that has. Parts that a subspace does not have bring back 0.
    """

    site: Site
    subspaces: tuple[Subspace, ...]
    read_share: Float[np.ndarray, " subspace"]
    effects: Float[np.ndarray, "pair subspace part"]  # whole, row space, null space, in the metric's unit
    gaps: Float[np.ndarray, " pair"]
    readable: int
    width: int

    @property
    def shares(self) -> Float[np.ndarray, "subspace part"]:
        """The share of the gap by the whole subspace, its row-space part and its null-space part."""
        shares: np.ndarray = self.effects.mean(axis=0) / self.gaps.mean()
        return shares

    @property
    def dormant(self) -> Bool[np.ndarray, " subspace"]:
        """Where the effect is at least a tenth of the gap and the row-space part keeps less than half of it."""
        whole, row, _ = self.shares.T
        flag: np.ndarray = (whole >= LEAST) & (row < KEPT * whole)
        return flag


def audit(
    model: Model,
    pairs: Sequence[Pair | TokenPair],
    site: str | Site,
    subspaces: Sequence[Subspace],
    *,
    memory: int = MEMORY,
) -> Illusion:
    """Each subspace of a site beside its row-space and its null-space part, patched by themselves (denoising).

    Raises InputError for a site that no weight reads (`q`, `k`, `v`, a stream read by experts), and as
    `patch_subspaces` does.
    """
    place = spanned_site(model, site)
    read = read_directions(model, place)
    parts = [_parts(subspace, read) for subspace in subspaces]
    wanted = [part for each in parts for part in each if part is not None]
    found = patch_subspaces(model, pairs, place, wanted, metric=METRIC, memory=memory)
    effects = np.zeros((len(pairs), len(parts), 3))
    there = np.array([[part is not None for part in each] for each in parts], dtype=bool).reshape(-1, 3)
    effects[:, there] = found.values - found.corrupted[:, None]
    shares = [
        float((each.basis.double() @ read.T.to(each.basis.device)).square().sum() / each.dimensions)
        for each in subspaces
    ]
    gaps = found.clean - found.corrupted
    return Illusion(place, tuple(subspaces), np.array(shares), effects, gaps, len(read), read.shape[1])


def _parts(subspace: Subspace, read: Float[Tensor, "read width"]) -> tuple[Subspace, Subspace | None, Subspace | None]:
    """The subspace, what of it is read and what is not; None where a part is nothing."""
    basis = subspace.basis.double().to(read.device)
    row = basis @ read.T @ read
    return subspace, _part("row", row), _part("null", basis - row)


def _part(name: str, vectors: Tensor) -> Subspace | None:
    lasting = vectors[vectors.norm(dim=1) > NOTHING]
    return spanned(name, lasting) if len(lasting) else None
