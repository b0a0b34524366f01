"""Names of places: how a site is written and read, and which sites restore everything by construction."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from patchlight.errors import InputError
from patchlight.pairs.align import Alignment
from patchlight.records import Site
from patchlight.trace.rows import COMPONENTS

_UNLAYERED = ("embed", "final_norm", "logits")
_WRITTEN = re.compile(
    r"(?:blocks\.(?P<layer>\d+)\.)?(?P<component>[a-z_]+)(?:\.(?P<unit>\d+))?(?:@(?P<position>\w+))?"
)


def site_name(site: Site) -> str:
    """The canonical name of a site, e.g. `blocks.9.head_out.6@last`; `parse_site` reads it back."""
    layer = "" if site.layer is None else f"blocks.{site.layer}."
    unit = "" if site.unit is None else f".{site.unit}"
    position = "" if site.position is None else f"@{site.position}"
    return f"{layer}{site.component}{unit}{position}"


def parse_site(name: str) -> Site:
    """The site of a canonical name.

    Raises InputError `site-name` for what is not a name, an unknown component, or a layer missing or not wanted.
    """
    read = _WRITTEN.fullmatch(name)
    if read is None or read["component"] not in COMPONENTS or (read["layer"] is None) != (read["component"] in _UNLAYERED):
        fix = f"write it like blocks.7.mlp_out@subject_last; components: {', '.join(COMPONENTS)}"
        raise InputError("site-name", f"{name!r} does not name a site", fix=fix)
    position = read["position"]
    return Site(
        component=read["component"],
        layer=None if read["layer"] is None else int(read["layer"]),
        unit=None if read["unit"] is None else int(read["unit"]),
        position=int(position) if position is not None and position.isdigit() else position,
    )


def structural_sites(
    alignments: Sequence[Alignment], component: str, n_layers: int
) -> Bool[np.ndarray, "pair layer position"]:
    """The sites through which everything that differs must pass on its way to the metric: full cuts of the graph.

    Restoring one restores everything by construction, so it says nothing about where knowledge is (method, guard
    2). The residual stream is one in the first layer where a single token differs, in every layer where that token
    is the last one, and behind the last attention at the last position, the only one that is read there.
    """
    length = max((len(alignment.clean_ids) for alignment in alignments), default=0)
    layers = 1 if component in _UNLAYERED else n_layers
    cut = np.zeros((len(alignments), layers, length), dtype=bool)
    for pair, alignment in enumerate(alignments):
        last = len(alignment.clean_ids) - 1
        alone = alignment.differing[0] if len(alignment.differing) == 1 else None
        if component in ("embed", "resid_pre") and alone is not None:
            cut[pair, 0, alone] = True
        if component in ("resid_pre", "resid_mid", "resid_post") and alone == last:
            cut[pair, :, last] = True
        if component in ("resid_mid", "resid_post", "final_norm", "logits"):
            cut[pair, -1, last] = True
    return cut
