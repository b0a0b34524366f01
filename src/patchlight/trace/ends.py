"""The ends of paths: components that send a change, and those that read it, from what people write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from patchlight.errors import InputError
from patchlight.pairs.align import Alignment
from patchlight.records import Site
from patchlight.trace.cells import require_known
from patchlight.trace.direct import READERS, WRITERS
from patchlight.trace.rows import ALL, COMPONENTS, HEADED, UNLAYERED, Rows
from patchlight.trace.sites import check_component, check_site, n_units, read_site, resolve

if TYPE_CHECKING:
    from jaxtyping import Bool, Int
    from torch import Tensor

    from patchlight.model.anatomy import Model

Named = str | Site
_End = TypeVar("_End")


def senders_of(model: Model, given: Named | Sequence[Named]) -> tuple[Site, ...]:
    """The senders that are meant: a component stands for all its layers and heads; else sites by name.

    Raises InputError for a component that writes nothing into the stream, and for a site of several layers.
    """
    found = [site for each in _each(given) for site in _expanded(model, each, WRITERS)]
    return _not_empty(found, "senders")


def receivers_of(model: Model, given: Named | Sequence[Named | Sequence[Named]]) -> tuple[tuple[Site, ...], ...]:
    """The receivers that are meant, each a set of sites that read at once; a component stands for each of its own.

    Raises InputError for a component that does not read the stream, and for a site of several layers.
    """
    sets: list[tuple[Site, ...]] = []
    for each in _each(given):
        if isinstance(each, str | Site):
            sets += [(site,) for site in _expanded(model, each, READERS)]
        else:
            sets.append(_not_empty([site for one in each for site in _expanded(model, one, READERS)], "receivers"))
    return _not_empty(sets, "receivers")


def positions(
    sites: Sequence[Site], alignments: Sequence[Alignment], length: int
) -> Bool[Tensor, "site pair position"]:
    """Which of a run's `length` positions each site stands for; those behind a prompt never are."""
    at = torch.zeros(len(sites), len(alignments), length, dtype=torch.bool)
    for row, site in enumerate(sites):
        for pair, alignment in enumerate(alignments):
            found = resolve(site, alignment).position
            every = range(len(alignment.clean_ids)) if found is None else np.atleast_1d(np.array(found)).tolist()
            at[row, pair, list(every)] = True
    return at


def replacing(
    site: Site, row: Int[Tensor, "patch"], position: Int[Tensor, "patch"], given: Int[Tensor, "patch"]
) -> Int[Tensor, "6 _"]:
    """A site's columns for `Rows`, the donor's prompts behind them: each of its heads in these rows and positions."""
    units = [ALL] if site.unit is None else np.atleast_1d(np.array(site.unit)).tolist()
    layer = site.layer if isinstance(site.layer, int) else 0
    columns = []
    for unit in units:
        place = [torch.full_like(row, each) for each in (COMPONENTS.index(site.component), layer, unit)]
        columns.append(torch.stack([row, *place, position, given]))
    return torch.cat(columns, dim=1)


def rows_of(pair: Int[Tensor, "row"], columns: Sequence[Int[Tensor, "6 _"]]) -> Rows:
    """Rows of these pairs with all their replacements."""
    patches = torch.cat([torch.zeros(6, 0, dtype=torch.long), *columns], dim=1)
    return replace(Rows.at(pair, patches[:5]), given=patches[5])


def _each(given: Named | Sequence[Named | Sequence[Named]]) -> Sequence[Named | Sequence[Named]]:
    return [given] if isinstance(given, str | Site) else given


def _expanded(model: Model, given: object, known: Sequence[str]) -> list[Site]:
    """A site as it is, a name read; a component by itself as all its sites."""
    if isinstance(given, str) and given in known:
        check_component(given, model)
        units = range(n_units(given, model)) if given in HEADED else (None,)
        layers = (None,) if given in UNLAYERED else range(model.n_layers)
        return [Site(given, layer, unit) for layer in layers for unit in units]
    site = read_site(str(given))
    require_known("component", site.component, known)
    check_site(site, model)
    if isinstance(site.layer, tuple):
        what = "an end of a path is of one layer"
        raise InputError("trace-path-layers", what, where=str(site), fix="name one site for each layer")
    return [site]


def _not_empty(found: Sequence[_End], what: str) -> tuple[_End, ...]:
    if not found:
        raise InputError("trace-path-ends", f"no {what}", fix="name a component such as head_out, or sites")
    return tuple(found)
