"""Windows: neighbouring layers and words replaced together, beside the sum of what each does by itself.

A window can do more than its parts together (they work jointly) or less (they stand in for one another); a peak of a
windowed map is no place by itself. Method: Zhang & Nanda 2023 (arXiv 2309.16042).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from patchlight.errors import InputError
from patchlight.pairs.align import Alignment, align
from patchlight.pairs.answers import steps_read
from patchlight.records import Pair, TokenPair
from patchlight.trace.cells import Grid, places_of, rows_of, sites_of
from patchlight.trace.corruptions import TOKEN
from patchlight.trace.cuts import restoring
from patchlight.trace.effects import Effects
from patchlight.trace.sweep import MEMORY, Settings, effects_of, measured, sweep, work_on

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from patchlight.model.anatomy import Model


@dataclass(frozen=True)
class WindowEffects:
    """Windows of `layers` layers by `positions` words, named by their first: `joint.values[pair, layer, position]`.

    `single` has each layer and position by itself. `structural[pair, layer, position]` marks windows that restore
    everything by construction, whatever the weights (guard 2).
    """

    joint: Effects
    single: Effects
    structural: Bool[np.ndarray, "pair layer *head position"]
    layers: int
    positions: int

    def recovery(self, floor: float | None = None) -> Float[np.ndarray, "pair layer *head position"]:
        """The share of the gap that each window brings back (denoise) or takes away (noise); see `Effects.recovery`."""
        return self.joint.recovery(floor)

    def sum_of_singles(self, floor: float | None = None) -> Float[np.ndarray, "pair layer *head position"]:
        """The sum of the shares of a window's places, each replaced by itself."""
        shares = self.single.recovery(floor)
        for axis, width in ((1, self.layers), (shares.ndim - 1, self.positions)):
            shares = np.lib.stride_tricks.sliding_window_view(shares, width, axis=axis).sum(axis=-1)
        return shares


def sweep_windows(
    model: Model,
    pairs: Sequence[Pair | TokenPair],
    *,
    layers: int = 1,
    positions: int = 2,
    component: str = "mlp_out",
    direction: str = "denoise",
    metric: str = "logit_diff",
    on_progress: Callable[[int, int], None] | None = None,
    memory: int = MEMORY,
) -> WindowEffects:
    """The effects of every window of neighbouring layers and positions of the prompt, and of each place alone.

    `on_progress` follows the windows; other settings are those of `sweep`. Raises InputError for a window wider than
    the model or than a prompt, and as `sweep` does.
    """
    alignments = [align(model.tokenizer, pair) for pair in pairs]
    _refuse_width(positions, alignments)
    cells = Grid(sites_of(model, component, layers, None), (), positions)
    work = work_on(model, pairs, cells, Settings(direction, (metric,), TOKEN, "exact", memory))
    joint = effects_of(work, cells, tuple(pairs), measured(work, on_progress))[metric]
    single = sweep(model, pairs, component=component, direction=direction, metric=metric, memory=memory)
    marked = np.zeros(joint.values.shape, dtype=bool)
    for pair, alignment in enumerate(alignments):
        found = _structural(model, alignment, cells, metric)
        marked[pair, ..., : found.shape[-1]] = found
    return WindowEffects(joint, single, marked, layers, positions)


def _structural(
    model: Model, alignment: Alignment, cells: Grid, metric: str
) -> Bool[np.ndarray, "layer *head position"]:
    """The windows that cut every way to each token of the answer that the metric reads."""
    places, heads = places_of(alignment, (), cells.span), (model.n_heads, model.n_kv_heads)
    restored = []
    for step in steps_read(alignment, metric):
        longer = np.pad(places, ((0, 0), (0, step)))[None]
        rows = rows_of(cells.sites, torch.tensor(longer))
        restored.append(restoring(rows, alignment.differing, longer.shape[-1], model.n_layers, heads))
    every: np.ndarray = np.all(restored, axis=0).reshape(cells.shape([alignment]))
    return every


def _refuse_width(positions: int, alignments: Sequence[Alignment]) -> None:
    shortest = min((len(alignment.clean_ids) for alignment in alignments), default=positions)
    if not 1 <= positions <= shortest:
        what = f"a window of {positions} positions, where a prompt has {shortest} tokens"
        raise InputError("trace-window", what, fix=f"choose 1 to {shortest}")
