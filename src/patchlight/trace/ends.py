"""The ends of paths: components that send a change, and those that read it, from what people write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from patchlight.errors import InputError
from patchlight.pairs.align import Alignment
from patchlight.records import Site
from patchlight.trace.cells import require_known
from patchlight.trace.direct import READERS, WRITERS
from patchlight.trace.rows import HEADED, UNLAYERED
from patchlight.trace.sites import check_component, check_site, n_units, read_site, resolve

if TYPE_CHECKING:
    from jaxtyping import Bool
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
            sets.append(tuple(site for one in each for site in _expanded(model, one, READERS)))
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
