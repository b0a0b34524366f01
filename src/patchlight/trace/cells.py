"""The cells of a sweep: which sites are replaced together in each, and their rows for the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch

from patchlight.errors import InputError
from patchlight.pairs.align import ROLES, Alignment
from patchlight.pairs.answers import steps_read
from patchlight.trace.rows import ALL, COMPONENTS, HEADED, UNLAYERED, Rows
from patchlight.trace.sites import check_component, n_units, structural_sites

if TYPE_CHECKING:
    from jaxtyping import Bool
    from torch import Tensor

    from patchlight.model.anatomy import Model

POSITIONS = ("each", "all", "roles")


class Sites(NamedTuple):
    """The places of a component: `layers` first layers of windows, `units` (0: none) of `members` heads or neurons."""

    component: str
    layers: int
    window: int
    units: int
    members: int

    @property
    def axes(self) -> tuple[int, ...]:
        """The sizes of the axes between pair and position."""
        return (self.layers, *([self.units] if self.units else []))


class Cells(Protocol):
    """What is patched in each pair: a row for each of its cells, in the order of `shape`."""

    @property
    def components(self) -> frozenset[str]:
        """The components that are replaced."""

    def rows(self, alignments: Sequence[Alignment]) -> Rows:
        """The rows of pairs of one length."""

    def shape(self, alignments: Sequence[Alignment]) -> tuple[int, ...]:
        """The axes of a pair's cells, for pairs of one length."""

    def absent(self, alignments: Sequence[Alignment]) -> Bool[np.ndarray, "pair ..."]:
        """Which cells a pair does not have (to be broadcast)."""

    def patches(self, alignment: Alignment) -> int:
        """How many activations all rows of a pair replace together, at most."""


@dataclass(frozen=True)
class Grid:
    """Every place of a component at every position, or at all positions of each of `columns` together.

    Without `columns`, `span` neighbouring positions are replaced together; the last axis names the first of them.
    """

    sites: Sites
    columns: tuple[str, ...]
    span: int = 1

    @property
    def components(self) -> frozenset[str]:
        """The one component."""
        return frozenset((self.sites.component,))

    def rows(self, alignments: Sequence[Alignment]) -> Rows:
        """A row for each pair, first layer, unit and place."""
        return rows_of(self.sites, self._places(alignments))

    def shape(self, alignments: Sequence[Alignment]) -> tuple[int, ...]:
        """First layers, units (where there are any) and places."""
        return (*self.sites.axes, len(self.columns) or len(alignments[0].clean_ids) - self.span + 1)

    def absent(self, alignments: Sequence[Alignment]) -> Bool[np.ndarray, "pair ..."]:
        """The roles that a pair lacks."""
        places = self._places(alignments)
        lacking: np.ndarray = ~places.any(-1).numpy()
        return lacking.reshape(len(alignments), *[1] * len(self.sites.axes), -1)

    def patches(self, alignment: Alignment) -> int:
        """Every position once for each place and position of a span, layer of a window, and member of a group."""
        together = self.span * self.sites.window * self.sites.members
        return int(np.prod(self.sites.axes)) * len(alignment.clean_ids) * together

    def _places(self, alignments: Sequence[Alignment]) -> Bool[Tensor, "pair place position"]:
        return torch.tensor(np.array([places_of(alignment, self.columns, self.span) for alignment in alignments]))


def rows_of(sites: Sites, places: Bool[Tensor, "pair place position"]) -> Rows:
    """A row for each pair, first layer, unit (where there are any) and place, in this order."""
    sizes = (places.shape[0], sites.layers, max(sites.units, 1), places.shape[1])
    pair, layer, unit, place = torch.cartesian_prod(*[torch.arange(size) for size in sizes]).T
    row, position = places[pair, place].nonzero().T
    # Each replaced position of a row stands for a window of layers and the members of a unit.
    depth, member = torch.cartesian_prod(torch.arange(sites.window), torch.arange(sites.members)).T
    depth, member = depth.repeat(len(row)), member.repeat(len(row))
    row, position = (column.repeat_interleave(sites.window * sites.members) for column in (row, position))
    unit = unit[row] * sites.members + member if sites.units else torch.full_like(row, ALL)
    kind = torch.full_like(row, COMPONENTS.index(sites.component))
    return Rows.at(pair, torch.stack([row, kind, layer[row] + depth, unit, position]))


def columns_of(alignments: Sequence[Alignment], positions: str) -> tuple[str, ...]:
    """The names of the last axis where positions are patched together: the roles that occur, or "all"."""
    if positions == "roles":
        return tuple(role for role in ROLES if any(role in alignment.roles for alignment in alignments))
    return ("all",) if positions == "all" else ()


def places_of(alignment: Alignment, columns: tuple[str, ...], span: int = 1) -> Bool[np.ndarray, "place position"]:
    """Which positions are patched together."""
    if not columns:
        each = np.eye(len(alignment.roles), dtype=int)
        spans: np.ndarray = np.lib.stride_tricks.sliding_window_view(each, span, axis=0).sum(axis=-1) > 0
        return spans
    together: np.ndarray = np.array([[name in ("all", role) for role in alignment.roles] for name in columns])
    return together


def sites_of(model: Model, component: str, window: int, groups: int | None) -> Sites:
    """The places of a component. Raises InputError for one that the model does not have, or cannot cut like this."""
    require_known("component", component, COMPONENTS)
    check_component(component, model)
    layers = 1 if component in UNLAYERED else model.n_layers
    if not 1 <= window <= layers:
        what = f"a window of {window} layers of {component}, which has {layers}"
        raise InputError("trace-window", what, where=model.name, fix=f"choose 1 to {layers}")
    units, members = 0, 1
    if component in HEADED:
        units = n_units(component, model)
    if groups is not None:
        hidden = n_units(component, model) if component == "mlp_hidden" else 0
        if groups < 1 or not hidden or hidden % groups:
            what = f"{component} cannot be cut into {groups} equal groups of neurons"
            fix = "choose mlp_hidden and a divisor of its width" + (f", {hidden}" if hidden else "")
            raise InputError("trace-groups", what, where=model.name, fix=fix)
        units, members = groups, hidden // groups
    return Sites(component, layers - window + 1, window, units, members)


def structural_cells(
    alignments: Sequence[Alignment], component: str, n_layers: int, metric: str
) -> Bool[np.ndarray, "pair layer position"]:
    """Where replacing the one site restores the metric by construction, at every token of the answer that it reads.

    For an answer of one token these are `structural_sites`. What follows the prompt is the same in both runs.
    """
    result = structural_sites(alignments, component, n_layers)
    for pair, alignment in enumerate(alignments):
        length = len(alignment.clean_ids)
        ahead = [
            replace(alignment, clean_ids=alignment.clean_ids + alignment.correct_ids[:1] * step)
            for step in steps_read(alignment, metric)
        ]
        result[pair, :, :length] = structural_sites(ahead, component, n_layers)[:, :, :length].all(axis=0)
    return result


def require_known(setting: str, value: str, known: Sequence[str]) -> None:
    """Raises InputError for a value that a setting does not have."""
    if value not in known:
        fix = f"choose one of: {', '.join(known)}"
        raise InputError(f"trace-unknown-{setting}", f"no {setting} {value!r}", fix=fix)
