"""Names of places that print and parse back, and the places that restore everything by construction."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from patchlight.errors import InputError
from patchlight.records import Site
from patchlight.trace.rows import COMPONENTS, UNLAYERED

if TYPE_CHECKING:
    from jaxtyping import Bool

    from patchlight.pairs.align import Alignment

NAME = re.compile(r"(?:blocks\.(?P<layer>\d+)\.)?(?P<component>[a-z_]+)(?:\.(?P<unit>\d+))?(?:@(?P<position>\w+))?")


def read_site(name: str) -> Site:
    """The site that a canonical name stands for. Raises InputError `trace-site-name` for anything else."""
    found = NAME.fullmatch(name)
    if (
        found is None
        or found["component"] not in COMPONENTS
        or (found["layer"] is None) != (found["component"] in UNLAYERED)
    ):
        fix = f"write it like blocks.7.mlp_out@subject_last, with one of: {', '.join(COMPONENTS)}"
        raise InputError("trace-site-name", f"{name!r} is not the name of a site", fix=fix)
    layer, unit = (None if found[part] is None else int(found[part]) for part in ("layer", "unit"))
    position = found["position"]
    return Site(found["component"], layer, unit, int(position) if position and position.isdigit() else position)


def structural_sites(
    alignments: Sequence[Alignment], component: str, n_layers: int
) -> Bool[np.ndarray, "pair layer position"]:
    """Where replacing the one site restores everything by construction, whatever the weights (guard 2).

    A site does if every way from the tokens that differ to the metric leads through it, in the graph of a decoder:
    the stream goes up position by position, attention carries it to later positions. False behind a shorter prompt.
    One head or neuron never is such a site.
    """
    width = max((len(alignment.clean_ids) for alignment in alignments), default=0)
    result = np.zeros((len(alignments), 1 if component in UNLAYERED else n_layers, width), dtype=bool)
    for pair, alignment in enumerate(alignments):
        length = len(alignment.clean_ids)
        result[pair, :, :length] = _cuts(alignment.differing, component, n_layers, length)
    return result


@lru_cache(maxsize=4096)
def _cuts(differing: tuple[int, ...], component: str, n_layers: int, length: int) -> Bool[np.ndarray, "layer position"]:
    """The single sites without which nothing of the differing tokens reaches the last position's logits."""
    if component in ("final_norm", "logits"):
        at_last: np.ndarray = np.arange(length)[None] == length - 1
        return at_last
    layers = 1 if component == "embed" else n_layers
    layer, position = (axis.ravel() for axis in np.indices((layers, length)))
    site = np.arange(len(layer))

    def cut(reached: np.ndarray, at: str, above: int) -> np.ndarray:
        """What is reached, `[site, position]`, once each site's own place is cut out of it."""
        if at == component or (at == "resid_pre" and above == 0 and component == "embed"):
            here = layer == above
            reached[site[here], position[here]] = False
        return reached

    stream = np.zeros((len(site), length), dtype=bool)
    stream[:, list(differing)] = True
    for above in range(n_layers):
        stream = cut(stream, "resid_pre", above)
        attention = cut(np.logical_or.accumulate(stream, axis=1), "attn_out", above)
        stream = cut(stream | attention, "resid_mid", above)
        stream = cut(stream | cut(stream.copy(), "mlp_out", above), "resid_post", above)
    cuts: np.ndarray = ~stream[:, -1].reshape(layers, length)
    return cuts
