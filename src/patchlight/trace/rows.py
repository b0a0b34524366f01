"""Rows: which activations are replaced together, and the least that has to be run for each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch

from patchlight.errors import InputError
from patchlight.packs.yaml_source import suggestion
from patchlight.records import Site

if TYPE_CHECKING:
    from jaxtyping import Bool, Int
    from torch import Tensor

COMPONENTS = (
    "embed",
    "resid_pre",
    "q",
    "k",
    "v",
    "pattern",
    "head_out",
    "attn_out",
    "resid_mid",
    "mlp_hidden",
    "mlp_out",
    "resid_post",
    "final_norm",
    "logits",
)
UNLAYERED = ("embed", "final_norm", "logits")  # one place each, not one a block
HEADED = ("q", "k", "v", "pattern", "head_out")  # a value per head
OWN_POSITION = ("q", "pattern", "head_out", "attn_out", "resid_mid", "mlp_hidden", "mlp_out")
RESID = COMPONENTS.index("resid_pre")
ALL = -1  # unit: every head or neuron


@dataclass(frozen=True)
class Rows:
    """Replacements, row by row: `pair` has an element a row, the others an element a replaced activation.

    Components are indices into COMPONENTS. The residual stream has one name here: `embed` is `resid_pre` of layer 0
    (all that follows the embedding works position by position), `resid_post` is `resid_pre` of the next layer.
    """

    pair: Int[Tensor, "row"]
    row: Int[Tensor, "patch"]
    component: Int[Tensor, "patch"]
    layer: Int[Tensor, "patch"]
    unit: Int[Tensor, "patch"]
    position: Int[Tensor, "patch"]
    given: Int[Tensor, "patch"] | None = None  # whose activation the donor gives; by default that of the row's pair

    @property
    def source(self) -> Int[Tensor, "patch"]:
        """The donor's prompt from which each activation is taken."""
        return self.pair[self.row] if self.given is None else self.given

    @staticmethod
    def of(pair: Sequence[int], sites: Sequence[Sequence[Site]], length: int) -> Rows:
        """Rows from the sites of each, whose positions are indices (`trace.sites.resolve`) or None for every position.

        Raises InputError `trace-site-name` for a site that cannot be, `trace-no-position` for a position that the
        prompts of `length` tokens do not have.
        """
        patches = [
            (row, *patch) for row, together in enumerate(sites) for site in together for patch in _patches(site, length)
        ]
        return Rows.at(torch.tensor(pair, dtype=torch.long), torch.tensor(patches, dtype=torch.long).reshape(-1, 5).T)

    @staticmethod
    def at(pair: Int[Tensor, "row"], patches: Int[Tensor, "5 patch"]) -> Rows:
        """Rows from the five columns, with one name for the residual stream."""
        row, component, layer, unit, position = patches
        after = component == COMPONENTS.index("resid_post")
        stream = after | (component == COMPONENTS.index("embed"))
        return Rows(pair, row, torch.where(stream, RESID, component), layer + after.long(), unit, position)

    def take(self, rows: Int[Tensor, "some"]) -> Rows:
        """Some of the rows, numbered anew."""
        new = torch.full((len(self.pair),), -1)
        new[rows] = torch.arange(len(rows))
        kept = new[self.row] >= 0
        return replace(self._of(kept), pair=self.pair[rows], row=new[self.row[kept]])

    def working(self, differs: Bool[Tensor, "pair position"], n_layers: int, read: int = 1) -> Rows:
        """The rows without the patches that cannot change the metric, decided from token ids.

        Nothing differs before the first token that differs; at the entry of the first layer only the tokens that
        differ do; in and after the last layer only what reaches the last `read` positions counts.
        """
        length = differs.shape[1]
        first = torch.where(differs.any(1), differs.int().argmax(1), length)
        pair = self.pair[self.row]
        works = self.position >= first[pair]
        works &= differs[pair, self.position] | (self.layer > 0) | ~among(self.component, ("resid_pre", "q", "k", "v"))
        late = (self.layer == n_layers) | ((self.layer == n_layers - 1) & among(self.component, OWN_POSITION))
        works &= ~late | (self.position >= length - read)
        return self._of(works)

    def _of(self, kept: Bool[Tensor, "patch"]) -> Rows:
        """The same rows with some of the patches."""
        names = ("row", "component", "layer", "unit", "position", *(["given"] if self.given is not None else []))
        return replace(self, **{name: getattr(self, name)[kept] for name in names})

    @property
    def live(self) -> Int[Tensor, "some"]:
        """The rows that replace anything."""
        rows: Tensor = torch.unique(self.row)
        return rows

    def first(self, column: Int[Tensor, "patch"]) -> Int[Tensor, "row"]:
        """The smallest value of a column in each row."""
        start = torch.full((len(self.pair),), np.iinfo(np.int64).max)
        return start.scatter_reduce(0, self.row, column, "amin")


def among(component: Int[Tensor, "patch"], names: Sequence[str]) -> Bool[Tensor, "patch"]:
    """Which patches are of one of these components."""
    found: Tensor = torch.isin(component, torch.tensor([COMPONENTS.index(name) for name in names]))
    return found


def check_form(site: Site) -> None:
    """Raises InputError `trace-site-name` for an unknown component, or a layer or unit where there is none."""
    known, layered = site.component in COMPONENTS, site.component not in UNLAYERED
    if not known:
        what = f"no component {site.component!r}"
        fix = suggestion(site.component, COMPONENTS) or f"choose one of: {', '.join(COMPONENTS)}"
    elif layered == (site.layer is None):
        what = f"{site.component} {'needs' if layered else 'has no'} layer"
        fix = f"write it like {'blocks.3.' * layered}{site.component}"
    elif site.unit is not None and site.component not in (*HEADED, "mlp_hidden"):
        what = f"{site.component} has no heads or neurons"
        fix = f"leave the unit out, or choose one of: {', '.join((*HEADED, 'mlp_hidden'))}"
    else:
        return
    raise InputError("trace-site-name", what, where=str(site), fix=fix)


def _patches(site: Site, length: int) -> Iterable[tuple[int, ...]]:
    """Component, layer, unit and position of each activation that a site replaces."""
    check_form(site)
    layers, units = _several(site.layer, (0,)), _several(site.unit, (ALL,))
    return product((COMPONENTS.index(site.component),), layers, units, _positions(site, length))


def _positions(site: Site, length: int) -> Sequence[int]:
    if isinstance(site.position, str):
        what = f"the role {site.position!r} is not yet an index"
        raise InputError("trace-no-position", what, where=str(site), fix="resolve the site on the pair's alignment")
    positions = _several(site.position, range(length))
    if positions and positions[-1] >= length:
        what = f"there is no position {positions[-1]} in a prompt of {length} tokens"
        raise InputError("trace-no-position", what, where=str(site), fix="give indices from 0")
    return positions


def _several(part: int | Sequence[int] | None, otherwise: Sequence[int]) -> Sequence[int]:
    return otherwise if part is None else (part,) if isinstance(part, int) else part
