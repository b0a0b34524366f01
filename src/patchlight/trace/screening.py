"""Screening: estimates order all sites, the first are patched exactly, and an audit bounds what was missed.

A screen only orders the work. No estimate is a result: what is said of a site rests on its exact effect.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from patchlight.errors import InputError
from patchlight.pairs.align import ROLES, Alignment, align, mean_by_role
from patchlight.records import Pair, Site
from patchlight.trace.changes import Cells, estimate, patch_cells, reaching
from patchlight.trace.metrics import FLOOR
from patchlight.trace.sites import structural_sites
from patchlight.trace.sweep import MEMORY

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Bool, Float, Int

    from patchlight.model.anatomy import Model

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Screening:
    """Sites in order, strongest estimate first: `sites[i]` has `estimate[i]` and, where it was patched, `exact[i]`.

    Both are shares of the gap: the mean change over facts by the mean gap over the same facts; a site's change is the
    mean over the positions of its role, each patched alone. Order is by absolute value. The first `candidates` were
    patched exactly, and of the rejected a random sample, `audited`; elsewhere `exact` is NaN. Sites that restore
    everything by construction (`by_construction` of them) and sites that cannot change anything are not among them.
    """

    sites: tuple[Site, ...]
    estimate: Float[np.ndarray, "site"]
    exact: Float[np.ndarray, "site"]
    candidates: int
    audited: Bool[np.ndarray, "site"]
    threshold: float
    method: str
    direction: str
    pairs: int
    facts: int
    by_construction: int

    @property
    def found(self) -> tuple[Site, ...]:
        """The candidates whose exact effect is at least `threshold` of the gap, by absolute value."""
        strong = np.abs(self.exact[: self.candidates]) >= self.threshold
        return tuple(site for site, kept in zip(self.sites, strong, strict=False) if kept)

    @property
    def missed(self) -> tuple[Site, ...]:
        """The audited sites whose exact effect is at least `threshold` of the gap, by absolute value."""
        strong = self.audited & (np.abs(self.exact) >= self.threshold)
        return tuple(self.sites[index] for index in np.flatnonzero(strong))

    @property
    def bound(self) -> float:
        """The one-sided 95 % upper bound (Clopper-Pearson) on the share missed among the rejected sites."""
        return upper_bound(len(self.missed), int(self.audited.sum()))

    def figures(self) -> dict[str, float | int | str]:
        """What a report prints of a screening."""
        audited = np.abs(self.exact[self.audited])
        return {
            "method": self.method,
            "direction": self.direction,
            "pairs": self.pairs,
            "facts": self.facts,
            "sites": len(self.sites),
            "by_construction": self.by_construction,
            "candidates": self.candidates,
            "found": len(self.found),
            "threshold": self.threshold,
            "rejected": len(self.sites) - self.candidates,
            "audited": len(audited),
            "missed": len(self.missed),
            "confidence": CONFIDENCE,
            "missed_share_bound": self.bound,
            "largest_audited": float(audited.max()) if len(audited) else math.nan,
        }

    def to_frame(self) -> pd.DataFrame:
        """A tidy table, one line a site in order: site, its parts, estimate, status, exact."""
        import pandas as pd

        first = np.arange(len(self.sites)) < self.candidates
        status = np.where(first, "candidate", np.where(self.audited, "audited", "rejected"))
        parts = ("component", "layer", "unit", "position")
        columns = {part: [getattr(site, part) for site in self.sites] for part in parts}
        names = {"unit": "head", "position": "role"}
        return pd.DataFrame(
            {"site": [str(site) for site in self.sites]}
            | {names.get(part, part): values for part, values in columns.items()}
            | {"estimate": self.estimate, "status": status, "exact": self.exact}
        )


def upper_bound(missed: int, audited: int) -> float:
    """The one-sided 95 % upper bound (Clopper-Pearson) on a share of which `missed` of `audited` were seen."""
    return 1.0 if missed == audited else float(stats.beta.ppf(CONFIDENCE, missed + 1, audited - missed))


def screen_sites(
    model: Model,
    pairs: Sequence[Pair],
    *,
    components: Sequence[str] = ("attn_out", "mlp_out"),
    direction: str = "denoise",
    method: str = "attribution",
    candidates: float = 0.1,
    audit: int = 60,
    threshold: float = 0.1,
    floor: float = FLOOR,
    seed: int = 0,
    memory: int = MEMORY,
    on_progress: Callable[[int, int], None] | None = None,
) -> Screening:
    """All sites (component x layer x head x token role) ordered by estimate, the share `candidates` patched exactly.

    A screen only orders the work. Of the rejected sites, `audit` drawn at random are patched exactly too; those with an
    effect of at least `threshold` of the gap, whatever its sign, count as missed. `on_progress` gets the cells patched
    and all cells to patch. Raises InputError for what `estimate` refuses, for a share of candidates outside (0, 1],
    and where the mean gap is under `floor` logits.
    """
    if not 0 < candidates <= 1:
        what = f"{candidates} is not a share of the sites"
        raise InputError("trace-candidates", what, fix="give more than 0, at most 1")
    guess = estimate(model, pairs, components=components, direction=direction, method=method, memory=memory)
    if not len(pairs) or abs(guess.gap.mean()) < floor:
        what = f"the mean gap of the {len(pairs)} pairs is under {floor} logits"
        fix = "keep the pairs that the model knows (patchlight.screen)"
        raise InputError("trace-no-gap", what, where=model.name, fix=fix)
    table = _table(model, pairs, guess.cells)
    estimates = table.shares(guess.cells, guess.gap)
    order = table.eligible[np.argsort(-np.abs(estimates[table.eligible]), kind="stable")]
    kept = math.ceil(candidates * len(order))
    audited = np.zeros(len(order), dtype=bool)
    audited[kept + np.random.default_rng(seed).permutation(len(order) - kept)[:audit]] = True
    chosen = table.cells(order[audited | (np.arange(len(order)) < kept)])
    exact = patch_cells(model, pairs, chosen, direction=direction, memory=memory, on_progress=on_progress)
    return Screening(
        sites=tuple(table.sites[index] for index in order),
        estimate=estimates[order],
        exact=table.shares(exact.cells, exact.gap)[order],
        candidates=kept,
        audited=audited,
        threshold=threshold,
        method=method,
        direction=direction,
        pairs=len(pairs),
        facts=len(table.members),
        by_construction=table.by_construction,
    )


@dataclass(frozen=True)
class _Table:
    """The sites of every component in one list, and the cells behind them.

    `eligible` are those that can change something and do not restore everything by construction.
    """

    sites: tuple[Site, ...]
    eligible: Int[np.ndarray, "some"]
    by_construction: int
    shapes: dict[str, tuple[int, ...]]  # of the cells of each component
    roles: tuple[tuple[str, ...], ...]  # of each pair
    members: Bool[np.ndarray, "fact pair"]

    def shares(self, cells: Cells, gap: Float[np.ndarray, "pair"]) -> Float[np.ndarray, "site"]:
        """The mean change over facts by the mean gap over the same facts; NaN where nothing was patched."""
        changes = _by_site(cells, self.roles)
        known = ~np.isnan(changes)
        pairs = self.members @ known.astype(float)

        def over_facts(values: np.ndarray) -> np.ndarray:
            sums = self.members @ np.where(known, values, 0)
            means: np.ndarray = np.divide(sums, pairs, out=np.zeros_like(sums), where=pairs > 0)
            total: np.ndarray = means.sum(axis=0)
            return total

        shares: np.ndarray = np.full(len(self.sites), np.nan)
        np.divide(over_facts(changes), over_facts(gap[:, None]), out=shares, where=known.any(axis=0))
        return shares

    def cells(self, chosen: Int[np.ndarray, "some"]) -> Cells:
        """True for the cells behind the chosen sites."""
        marked = np.zeros(len(self.sites), dtype=bool)
        marked[chosen] = True
        present, cells = _present(self.roles), {}
        for component, shape in self.shapes.items():
            here, marked = np.split(marked, [math.prod(shape[1:-1]) * len(present)])
            by_role = here.reshape(*shape[1:-1], len(present))
            cells[component] = np.zeros(shape, dtype=bool)
            for wanted, roles in zip(cells[component], self.roles, strict=True):
                wanted[..., : len(roles)] = by_role[..., [present.index(role) for role in roles]]
        return cells


def _table(model: Model, pairs: Sequence[Pair], cells: Cells) -> _Table:
    alignments = [align(model.tokenizer, pair) for pair in pairs]
    roles = tuple(alignment.roles for alignment in alignments)
    shapes = {component: values.shape for component, values in cells.items()}
    cuts = {component: _cuts(model, component, shape, alignments) for component, shape in shapes.items()}
    live = {component: reaching(model, component, alignments) for component in shapes}
    by_construction, reached = ((_by_site(each, roles) > 0).any(axis=0) for each in (cuts, live))
    facts = np.array([pair.fact or pair.clean for pair in pairs])
    return _Table(
        sites=tuple(_sites(shapes, _present(roles))),
        eligible=np.flatnonzero(reached & ~by_construction),
        by_construction=int(by_construction.sum()),
        shapes=shapes,
        roles=roles,
        members=np.unique(facts)[:, None] == facts,
    )


def _sites(shapes: dict[str, tuple[int, ...]], roles: Sequence[str]) -> Iterator[Site]:
    for component, shape in shapes.items():
        for layer, *head, role in np.ndindex(*shape[1:-1], len(roles)):
            yield Site(component, None if component == "embed" else layer, head[0] if head else None, roles[role])


def _cuts(
    model: Model, component: str, shape: tuple[int, ...], alignments: Sequence[Alignment]
) -> Bool[np.ndarray, "pair layer *head position"]:
    cuts: np.ndarray = structural_sites(alignments, component, model.n_layers)
    cuts = cuts.reshape(*cuts.shape[:2], *[1] * (len(shape) - 3), cuts.shape[-1])
    return np.broadcast_to(cuts, shape)


def _present(roles: Sequence[Sequence[str]]) -> list[str]:
    return [role for role in ROLES if any(role in of_pair for of_pair in roles)]


def _by_site(cells: Cells, roles: Sequence[Sequence[str]]) -> Float[np.ndarray, "pair site"]:
    parts = [mean_by_role(values.astype(float), roles)[1] for values in cells.values()]
    return np.concatenate([part.reshape(len(roles), -1) for part in parts], axis=1)
