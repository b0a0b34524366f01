"""Sites by name, one or several together: what people ask once a map has shown them where to look."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from patchlight.errors import InputError
from patchlight.pairs.align import Alignment
from patchlight.pairs.answers import steps_read
from patchlight.records import Pair, Site, TokenPair
from patchlight.trace import metrics as shares
from patchlight.trace.corruptions import Corruption, as_corruption
from patchlight.trace.random_donor import RandomDonor
from patchlight.trace.rows import Rows
from patchlight.trace.sites import check_site, is_structural, read_site, resolve
from patchlight.trace.sweep import BEHIND, MEMORY, Settings, measured, work_on

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Bool, Float

    from patchlight.model.anatomy import Model

Named = str | Site


@dataclass(frozen=True)
class SetEffects:
    """The metric after replacing each set of sites: `values[pair, set]`.

    `clean` and `corrupted` are the metric without a patch, per pair. `structural[pair, set]` marks sets that restore
    everything by construction, whatever the weights (guard 2): they are no finding.
    """

    values: Float[np.ndarray, "pair set"]
    clean: Float[np.ndarray, "pair"]
    corrupted: Float[np.ndarray, "pair"]
    structural: Bool[np.ndarray, "pair set"]
    sets: tuple[tuple[Site, ...], ...]
    pairs: tuple[Pair | TokenPair, ...]
    direction: str
    metric: str

    @property
    def names(self) -> tuple[str, ...]:
        """Each set as its sites are written."""
        return tuple(" & ".join(map(str, sites)) for sites in self.sets)

    def recovery(self, floor: float | None = None) -> Float[np.ndarray, "pair set"]:
        """The share of the gap brought back (denoise) or taken away (noise); NaN where the gap is under `floor`."""
        share = shares.recovery if self.direction == "denoise" else shares.damage
        return share(self.values, self.clean, self.corrupted, shares.FLOORS[self.metric] if floor is None else floor)

    def to_frame(self) -> pd.DataFrame:
        """A tidy table, one line a pair and set: pair, fact, kind, sites, value, recovery, structural."""
        import pandas as pd

        pair, chosen = (axis.ravel() for axis in np.indices(self.values.shape))
        return pd.DataFrame(
            {
                "pair": pair,
                "fact": np.array([p.fact for p in self.pairs])[pair],
                "kind": np.array([p.kind for p in self.pairs])[pair],
                "sites": np.array(self.names)[chosen],
                "value": self.values.ravel(),
                "recovery": self.recovery().ravel(),
                "structural": self.structural.ravel(),
            }
        )


@dataclass(frozen=True)
class _Sets:
    """Cells that are sets of sites."""

    sets: tuple[tuple[Site, ...], ...]

    @property
    def components(self) -> frozenset[str]:
        return frozenset(site.component for sites in self.sets for site in sites)

    def rows(self, alignments: Sequence[Alignment]) -> Rows:
        pair = [index for index in range(len(alignments)) for _ in self.sets]
        sites = [[resolve(site, each) for site in sites] for each in alignments for sites in self.sets]
        return Rows.of(pair, sites, len(alignments[0].clean_ids))

    def shape(self, _: Sequence[Alignment]) -> tuple[int, ...]:
        return (len(self.sets),)

    def absent(self, alignments: Sequence[Alignment]) -> Bool[np.ndarray, "pair set"]:
        return np.zeros((len(alignments), len(self.sets)), dtype=bool)

    def patches(self, alignment: Alignment) -> int:
        return len(self.rows([alignment]).row)


def patch(
    model: Model,
    pairs: Sequence[Pair | TokenPair],
    sites: Sequence[Named | Sequence[Named]],
    *,
    direction: str = "denoise",
    metric: str = "logit_diff",
    corruption: str | Corruption = "token",
    donors: Sequence[str | Sequence[int]] | RandomDonor | None = None,
    products: str = "exact",
    on_progress: Callable[[int, int], None] | None = None,
    memory: int = MEMORY,
) -> SetEffects:
    """The metric after replacing each site, or each set of sites together, in every pair.

    A site is a `Site` or its name (`blocks.7.mlp_out@subject_last`, `blocks.3-5.head_out.0+6@last`; see
    `read_site`); a role stands for all its tokens together. The other settings are those of `sweeps`.

    Raises InputError as `sweeps` does, for a site that the model or a pair does not have, an empty set, and for
    `final_norm` and `logits`, behind which nothing runs: `sweep` them.
    """
    sets = tuple(_set(model, each) for each in sites)
    settings = Settings(direction, (metric,), as_corruption(corruption), products, memory)
    work = work_on(model, pairs, _Sets(sets), settings, donors)
    values = np.full((len(pairs), len(sets)), np.nan)
    runs = np.full((2, len(pairs)), np.nan)
    for batch, found in measured(work, on_progress):
        values[batch], runs[:, batch] = found.values[metric], (found.clean[metric], found.corrupted[metric])
    structural = np.array(
        [
            [is_structural(each, alignment, model, steps_read(alignment, metric)) for each in sets]
            for alignment in work.alignments
        ]
    )
    shape = (len(pairs), len(sets))
    return SetEffects(values, runs[0], runs[1], structural.reshape(shape), sets, tuple(pairs), direction, metric)


def _set(model: Model, given: Named | Sequence[Named]) -> tuple[Site, ...]:
    together = [given] if isinstance(given, str | Site) else given
    sites = tuple(read_site(each) if isinstance(each, str) else each for each in together)
    if not sites:
        raise InputError("trace-empty-set", "a set of sites is empty", fix="name one site or more in each set")
    for site in sites:
        check_site(site, model)
        if site.component in BEHIND:
            what = f"{site.component} restores everything by construction, as nothing runs behind it"
            raise InputError("trace-nothing-behind", what, where=str(site), fix="leave it out, or `sweep` it")
    return sites
