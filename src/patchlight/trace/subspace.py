"""Patching a site along some directions only: h <- h + P (donor's h - h), exact, many subspaces in one pass.

Method: interchange of a subspace [Geiger et al. 2023, arXiv 2303.02536]. What a subspace brings back is read beside the
whole vector, a random subspace of equal size, and one found from shuffled pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from patchlight.errors import InputError
from patchlight.pairs.align import Alignment
from patchlight.records import Pair, Site, TokenPair
from patchlight.trace import metrics as shares
from patchlight.trace.capture import Run, capture
from patchlight.trace.cells import require_known
from patchlight.trace.corruptions import TOKEN
from patchlight.trace.das import DAS, Training, das
from patchlight.trace.directions import Subspace, mean_difference, principal, probe
from patchlight.trace.ends import positions, replacing, rows_of
from patchlight.trace.engine import replay
from patchlight.trace.rows import Rows
from patchlight.trace.sweep import MEMORY, Settings, Work, measured, work_on
from patchlight.trace.vectors import Group, groups, kept, seen, spanned_site, stored

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Bool, Float
    from torch import Tensor

    from patchlight.model.anatomy import Model

METHODS = ("mean-difference", "pca", "probe", DAS)


@dataclass(frozen=True)
class SubspaceEffects:
    """The metric after patching each subspace of a site, `values[pair, subspace]`; `whole[pair]`: all of the vector.

    `clean` and `corrupted` are the metric without a patch, per pair.
    """

    values: Float[np.ndarray, "pair subspace"]
    whole: Float[np.ndarray, "pair"]
    clean: Float[np.ndarray, "pair"]
    corrupted: Float[np.ndarray, "pair"]
    site: Site
    subspaces: tuple[Subspace, ...]
    pairs: tuple[Pair | TokenPair, ...]
    direction: str
    metric: str

    def recovery(self, floor: float | None = None) -> Float[np.ndarray, "pair subspace"]:
        """The share of the gap brought back (denoise) or taken away (noise); NaN where the gap is under `floor`."""
        share = shares.recovery if self.direction == "denoise" else shares.damage
        return share(self.values, self.clean, self.corrupted, shares.FLOORS[self.metric] if floor is None else floor)

    def to_frame(self) -> pd.DataFrame:
        """A tidy table, one line a pair and subspace: pair, fact, site, method, dimensions, value, recovery."""
        import pandas as pd

        pair, chosen = (axis.ravel() for axis in np.indices(self.values.shape))
        return pd.DataFrame(
            {
                "pair": pair,
                "fact": np.array([each.fact for each in self.pairs])[pair],
                "site": str(self.site),
                "method": np.array([each.method for each in self.subspaces])[chosen],
                "dimensions": np.array([each.dimensions for each in self.subspaces])[chosen],
                "value": self.values.ravel(),
                "recovery": self.recovery().ravel(),
            }
        )


def find_subspaces(
    model: Model,
    pairs: Sequence[Pair | TokenPair],
    site: str | Site,
    *,
    methods: Sequence[str] = METHODS,
    dimensions: Sequence[int] = (1, 2, 4, 8),
    shuffled: bool = False,
    training: Training | None = None,
) -> tuple[Subspace, ...]:
    """For each method the subspaces of these sizes at a site, as far as a method finds so many directions.

    `mean-difference` has one direction, `pca` as many as pairs, `probe` one less than there are answers; `das` is
    trained for each size anew. With `shuffled` every pair is given what another has: what is found then is the control.
    Judge them on other pairs than these. Raises InputError for an unknown method or size, and as `sweep` does.
    """
    place = spanned_site(model, site)
    for method in methods:
        require_known("method", method, METHODS)
    found = [each.shuffled() if shuffled else each for each in groups(model, pairs, place)]
    width = found[0].own[0].shape[-1] if found else 0
    if not dimensions or not 0 < min(dimensions) <= max(dimensions) <= width:
        what = f"subspaces of {tuple(dimensions)} dimensions in a vector of width {width}"
        raise InputError("trace-subspace-size", what, where=str(place), fix=f"give sizes from 1 to {width}, and pairs")
    result: list[Subspace] = []
    for method in methods:
        if method == DAS:
            facts = [each.fact or str(index) for index, each in enumerate(pairs)]
            result += [das(model, found, facts, place, size, training or Training()) for size in dimensions]
        else:
            one = _found(method, found, max(dimensions))
            result += [one.first(size) for size in dimensions if size <= one.dimensions]
    return tuple(result)


def _found(method: str, found: Sequence[Group], dimensions: int) -> Subspace:
    if method == "mean-difference":
        return mean_difference(found)
    return (principal if method == "pca" else probe)(found, dimensions)


def patch_subspaces(
    model: Model,
    pairs: Sequence[Pair | TokenPair],
    site: str | Site,
    subspaces: Sequence[Subspace],
    *,
    direction: str = "denoise",
    metric: str = "logit_diff",
    on_progress: Callable[[int, int], None] | None = None,
    memory: int = MEMORY,
) -> SubspaceEffects:
    """The metric after patching each subspace of a site in every pair, and after patching the whole vector.

    A role or several positions are patched together, each along the same directions. Other settings are those of
    `sweep`. Raises InputError for a subspace of another width, a site without directions, and as `sweep` does.
    """
    place = spanned_site(model, site)
    cells = _Projections(place, tuple(subspaces))
    settings = Settings(direction, (metric,), TOKEN, "exact", memory)
    usual = work_on(model, pairs, cells, settings)
    work = _SubspaceWork(model, usual.alignments, None, cells, settings, None)
    values = np.full((len(pairs), len(subspaces) + 1), np.nan)
    runs = np.full((2, len(pairs)), np.nan)
    for batch, found in measured(work, on_progress):
        values[batch], runs[:, batch] = found.values[metric], (found.clean[metric], found.corrupted[metric])
    return SubspaceEffects(
        values[:, :-1], values[:, -1], runs[0], runs[1], place, tuple(subspaces), tuple(pairs), direction, metric
    )


@dataclass(frozen=True)
class _Projections:
    """Cells that are subspaces of one site, and behind them the whole vector."""

    site: Site
    subspaces: tuple[Subspace, ...]

    @property
    def components(self) -> frozenset[str]:
        return frozenset({self.site.component})

    def rows(self, alignments: Sequence[Alignment]) -> Rows:
        """Row by row from a donor whose prompts are the pairs, once for each subspace."""
        pairs, count = len(alignments), len(self.subspaces) + 1
        at = positions([self.site], alignments, max(len(each.clean_ids) for each in alignments))[0]
        pair, position = at.nonzero().T
        columns = [
            replacing(self.site, pair * count + number, position, number * pairs + pair) for number in range(count)
        ]
        return rows_of(torch.arange(pairs).repeat_interleave(count), columns)

    def shape(self, _: Sequence[Alignment]) -> tuple[int, ...]:
        return (len(self.subspaces) + 1,)

    def absent(self, alignments: Sequence[Alignment]) -> Bool[np.ndarray, "pair subspace"]:
        return np.zeros((len(alignments), len(self.subspaces) + 1), dtype=bool)

    def patches(self, alignment: Alignment) -> int:
        return len(self.rows([alignment]).row)


@dataclass(frozen=True)
class _SubspaceWork(Work):
    """The runs of every subspace in pairs of prompts."""

    cells: _Projections

    @torch.inference_mode()
    def _patched(
        self, batch: Sequence[int], recipient: Run, donor: Run, rows: Rows, advance: Callable[[int], None]
    ) -> Float[Tensor, "row step width"]:
        made = _projected(self.model, self.cells, recipient, donor)
        differs = recipient.ids != donor.ids
        return replay(
            self.model, recipient, made, rows, memory=self.settings.memory // 2, differs=differs, on_pass=advance
        )


def _projected(model: Model, cells: _Projections, recipient: Run, donor: Run) -> Run:
    """A donor's run whose prompts are the pairs once for each subspace, and at last for the whole vector."""
    site, (name, layer) = cells.site, stored(cells.site)
    whole = capture(model, recipient.ids, kept(site), read=recipient.read)
    before = seen(whole, site, model)
    known = torch.arange(recipient.length, device=before.device)[:, None] >= donor.start
    change = torch.where(known, seen(donor, site, model) - before, torch.zeros((), dtype=before.dtype))
    made = whole.sites[name][layer].repeat(len(cells.subspaces) + 1, *[1] * (whole.sites[name][layer].dim() - 1))
    sites = {
        **recipient.sites,
        name: [made if number == layer else each for number, each in enumerate(whole.sites[name])],
    }
    run = replace(recipient, sites=sites)
    moved = [_along(subspace, change, site) for subspace in cells.subspaces]
    seen(run, site, model).add_(torch.cat([*moved, change]))
    return run


def _along(subspace: Subspace, change: Tensor, site: Site) -> Tensor:
    basis = subspace.basis.to(change)
    if basis.shape[1] != change.shape[-1]:
        what = f"a subspace of vectors of width {basis.shape[1]} at a site of width {change.shape[-1]}"
        raise InputError("trace-subspace-width", what, where=str(site), fix="find it at the same site")
    along: Tensor = change @ basis.T @ basis
    return along
