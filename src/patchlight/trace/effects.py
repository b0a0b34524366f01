"""What a sweep measured: the metric after each patch, and the shares of the gap that this is."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from patchlight.pairs.align import Alignment, mean_by_role
from patchlight.records import Pair, TokenPair
from patchlight.trace import metrics
from patchlight.trace.corruptions import TOKEN, Corruption

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Float


@dataclass(frozen=True)
class Effects:
    """The metric after each single patch: `values[pair, layer, position]`, with heads `[pair, layer, head, position]`.

    Where `columns` has names, all positions of a prompt ("all") or of a role were patched together, and the last axis
    is these. A patch covers `window` layers, the axis names the first. NaN where a pair has no such position or role.
    `clean` and `corrupted` are the metric without a patch, per pair; every metric is larger nearer to the clean run.
    """

    values: Float[np.ndarray, "pair layer *head position"]
    clean: Float[np.ndarray, "pair"]
    corrupted: Float[np.ndarray, "pair"]
    pairs: tuple[Pair | TokenPair, ...]
    alignments: tuple[Alignment, ...]
    component: str
    direction: str
    metric: str
    columns: tuple[str, ...] = ()
    window: int = 1
    corruption: Corruption = TOKEN

    def recovery(self, floor: float | None = None) -> Float[np.ndarray, "pair layer *head position"]:
        """The share of the gap brought back (denoise) or taken away (noise); NaN where the gap is under `floor`.

        By default the floor is the metric's own.
        """
        share = metrics.recovery if self.direction == "denoise" else metrics.damage
        return share(self.values, self.clean, self.corrupted, self.floor if floor is None else floor)

    @property
    def floor(self) -> float:
        """The smallest gap of this metric whose shares are defined."""
        return metrics.FLOORS[self.metric]

    def plot(self, pair: int | None = None) -> Any:
        """A drawing for a notebook: words as columns for one pair, roles for several; `.save(path)` writes an SVG."""
        # The report's renderer, found by name: a stage does not import the rooms to its right.
        return importlib.import_module("patchlight.report.notebook").draw_effects(self, pair)

    def by_role(self) -> tuple[tuple[str, ...], Float[np.ndarray, "pair layer *head role"]]:
        """The roles that occur, and the mean value over the positions of each role (NaN where a pair has none).

        Positions that were patched together stay as they are.
        """
        if self.columns:
            return self.columns, self.values
        return mean_by_role(self.values, [alignment.roles for alignment in self.alignments])

    def to_frame(self) -> pd.DataFrame:
        """A tidy table, one line a cell: pair, fact, kind, layer, head, position, role, token, value, recovery.

        Heads (neuron groups: `group`), positions and tokens only where there are any.
        """
        import pandas as pd

        cells = np.argwhere(~np.isnan(self.values))
        pair, place = cells[:, 0], cells[:, -1]
        unit = "group" if self.component == "mlp_hidden" else "head"
        columns = {
            "pair": pair,
            "fact": np.array([p.fact for p in self.pairs])[pair],
            "kind": np.array([p.kind for p in self.pairs])[pair],
            "layer": cells[:, 1],
            unit: cells[:, 2] if self.values.ndim == 4 else None,
            **self._places(pair, place),
            "value": self.values[tuple(cells.T)],
            "recovery": self.recovery()[tuple(cells.T)],
        }
        return pd.DataFrame({name: column for name, column in columns.items() if column is not None})

    def _places(self, pair: np.ndarray, place: np.ndarray) -> dict[str, np.ndarray]:
        if self.columns:
            return {"role": np.array(self.columns)[place]}
        length = self.values.shape[-1]
        words = np.array([(*a.words, *[""] * (length - len(a.words))) for a in self.alignments])
        roles = np.array([(*a.roles, *[""] * (length - len(a.roles))) for a in self.alignments])
        return {"position": place, "role": roles[pair, place], "token": words[pair, place]}
