"""Cuts: replacements that leave nothing of the tokens that differ in the result, whatever the weights (guard 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from patchlight.trace.rows import ALL, COMPONENTS, Rows

if TYPE_CHECKING:
    from jaxtyping import Bool


def restoring(
    rows: Rows, differing: Sequence[int], length: int, n_layers: int, heads: tuple[int, int] = (1, 1)
) -> Bool[np.ndarray, "row"]:
    """Which rows give the donor's metric by construction: they cut every way from the differing tokens to it.

    The graph is that of a decoder: the stream goes up position by position, attention (`heads`: query heads, key and
    value heads) carries it to later positions, the metric is read at the last one. A sliding window is taken for full
    attention, so that behind one a cut may be missed, never wrongly named.
    """
    return _Graph(rows, length, heads).walk(differing, n_layers)


class _Graph:
    """The walk upwards. Its arrays `[row, unit, position]` say what still differs from the donor's run.

    MLP and queries are left out: they read the stream at the position that they act on, so that what they bring to it
    can differ only where the stream does already.
    """

    def __init__(self, rows: Rows, length: int, heads: tuple[int, int]) -> None:
        self.shape, self.heads = (len(rows.pair), 1, length), heads
        columns = (rows.component, rows.layer, rows.row, rows.unit, rows.position)
        component, layer, *place = (column.numpy() for column in columns)
        self.places = {
            (COMPONENTS[kind], at): tuple(column[(component == kind) & (layer == at)] for column in place)
            for kind, at in set(zip(component.tolist(), layer.tolist(), strict=True))
        }

    def walk(self, differing: Sequence[int], n_layers: int) -> Bool[np.ndarray, "row"]:
        stream = np.zeros(self.shape, dtype=bool)
        stream[..., list(differing)] = True
        for layer in range(n_layers):
            stream = self.cut(stream, "resid_pre", layer)
            stream = self.cut(stream | self.attention(stream, layer), "resid_mid", layer)
        stream = self.cut(stream, "resid_pre", n_layers)
        stream = self.cut(self.cut(stream, "final_norm", 0), "logits", 0)
        return np.logical_not(stream[:, 0, -1])

    def attention(self, stream: Bool[np.ndarray, "row 1 position"], layer: int) -> Bool[np.ndarray, "row 1 position"]:
        queries, keys = self.heads
        k, v = (
            np.logical_or.accumulate(self.cut(stream.repeat(keys, axis=1), name, layer), axis=2) for name in ("k", "v")
        )
        pattern = self.cut(k.repeat(queries // keys, axis=1), "pattern", layer)
        heads = self.cut(pattern | v.repeat(queries // keys, axis=1), "head_out", layer)
        return self.cut(np.asarray(heads.any(axis=1, keepdims=True)), "attn_out", layer)

    def cut(self, differs: np.ndarray, component: str, layer: int) -> Bool[np.ndarray, "row unit position"]:
        """What still differs, in place, once the rows have put in what the donor has of a component."""
        if (component, layer) in self.places:
            row, unit, position = self.places[component, layer]
            whole = unit == ALL
            differs[row[whole], :, position[whole]] = False
            differs[row[~whole], unit[~whole], position[~whole]] = False
        return differs
