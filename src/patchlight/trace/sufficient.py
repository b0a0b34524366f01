"""Sufficient and necessary sets of a kind of knowledge: grown on some pairs, then measured on all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from patchlight.pairs.align import ROLES
from patchlight.records import Site
from patchlight.trace.growth import Cut, Growth, Indices, Joint, grow, lean
from patchlight.trace.joint import JointEffects, SetBench, Together, joint_effects

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from patchlight.pairs.align import Alignment

BOTH = "both"  # the sites of both growths together
ONE_BY_ONE = (
    8  # sites up to which every point of a growth curve is measured in all pairs; above, every fourth part more
)
WINDOW = 3  # layers

NullEffects = Callable[[Sequence[Together]], "tuple[Float[np.ndarray, 'pair set'], Float[np.ndarray, ' pair']]"]


class SetNull(NamedTuple):
    """What a set brings back where the answer cannot come from (NaN without a donor), and the gaps it is a share of."""

    effects: Float[np.ndarray, " pair"]
    gaps: Float[np.ndarray, " pair"]


class Grown(NamedTuple):
    """A set as it was grown: in which direction ("both": the union), for which share of the gap, reached or not."""

    by: str
    share: float
    reached: bool
    sites: Together


@dataclass(frozen=True)
class SetEffects:
    """A set that was grown on the discovery pairs, and what it does in every pair, in both directions.

    `nulls` are those of what it brings back, `damage_nulls` those of what it takes away, by name.
    """

    grown: Grown
    denoise: JointEffects
    noise: JointEffects
    nulls: Mapping[str, SetNull] = field(default_factory=dict)
    damage_nulls: Mapping[str, SetNull] = field(default_factory=dict)


@dataclass(frozen=True)
class Curve:
    """The growth in one direction: sites as they were added, and what the first `sizes` of them do in every pair."""

    direction: str
    sites: Together
    stopped: str
    sizes: tuple[int, ...]
    effects: Float[np.ndarray, "pair size"]


@dataclass(frozen=True)
class Windows:
    """Neighbouring layers replaced together, and the sum of what each brings back alone; NaN but in discovery pairs."""

    sites: Together
    joint: Float[np.ndarray, "pair window"]
    alone: Float[np.ndarray, "pair window"]


@dataclass(frozen=True)
class SetEvidence:
    """The sets of one kind of knowledge; rows are its pairs, whose metric has these `gaps`.

    `eligible` sites could be chosen; as few as `cut` of all sites together restore everything by construction (None: no
    such set is known); a set could grow to `largest` sites. `wiring` names what was not eligible because what comes
    back there need not be knowledge: a model with random weights gives back as much, or the word itself is passed on.
    """

    eligible: int
    cut: int | None
    largest: int
    gaps: Float[np.ndarray, " pair"]
    curves: tuple[Curve, ...]
    sets: tuple[SetEffects, ...]
    windows: Windows
    wiring: Together = ()


def eligible_sites(alignments: Iterable[Alignment], components: Sequence[str], n_layers: int) -> Together:
    """Every layer of these components at each role where anything can change, all tokens of a role together.

    Nothing changes before the first token that differs.
    """
    behind = {role for each in alignments for role in each.roles[min(each.differing) :]}
    roles = [role for role in ROLES if role in behind]
    return tuple(Site(name, layer, None, role) for name in components for layer in range(n_layers) for role in roles)


def find_sets(
    discovery: Mapping[str, SetBench],
    every: Mapping[str, SetBench],
    in_discovery: Bool[np.ndarray, " pair"],
    sites: Together,
    *,
    shares: Sequence[float],
    largest: int,
    nulls: Mapping[str, NullEffects],
    damage_nulls: Mapping[str, NullEffects] = MappingProxyType({}),
    wiring: Together = (),
) -> SetEvidence:
    """The sets that reach these shares of the gap, grown on the discovery pairs and measured in every pair.

    Benches are by direction, "denoise" and "noise". For each share there is the set of each direction, freed of what
    it can do without, and their union; where a share is not reached, all that grew.
    `wiring` is passed on.
    """
    alone = {name: bench.effects([(site,) for site in sites]) for name, bench in discovery.items()}
    strength = {name: alone[name].mean(axis=0) / bench.gaps.mean() for name, bench in discovery.items()}
    growths = {
        name: _growth(discovery[name], sites, strength[name], strength[other], max(shares), largest)
        for name, other in (("denoise", "noise"), ("noise", "denoise"))
    }
    grown = [each for share in sorted(shares) for each in _grown(discovery, growths, sites, share)]
    last = [site for site in (*sites, *wiring) if site.component == "attn_out" and site.position == "last"]
    return SetEvidence(
        eligible=len(sites),
        cut=len(last) or None,  # nothing reaches the last token but through its attention
        largest=largest,
        gaps=every["denoise"].gaps,
        curves=tuple(_curve(every[name], growth, sites) for name, growth in growths.items()),
        sets=_measured(every, nulls, damage_nulls, grown, sites),
        windows=_windows(discovery["denoise"], sites, alone["denoise"], in_discovery),
        wiring=wiring,
    )


def _growth(
    bench: SetBench, sites: Together, alone: np.ndarray, other: np.ndarray, share: float, largest: int
) -> Growth:
    joint, cut = _by_index(bench, sites)
    return grow(joint, alone, other, share=share, largest=largest, cut=cut)


def _grown(
    discovery: Mapping[str, SetBench], growths: Mapping[str, Growth], sites: Together, share: float
) -> list[Grown]:
    found = []
    for name, growth in growths.items():
        prefix = growth.reaching(share)
        joint, _ = _by_index(discovery[name], sites)
        kept = growth.order if prefix is None else lean(joint, prefix, share)
        found.append(Grown(name, share, prefix is not None, tuple(sites[index] for index in sorted(kept))))
    union = tuple(site for site in sites if any(site in each.sites for each in found))
    both = Grown(BOTH, share, all(each.reached for each in found), union)
    return [each for each in (*found, both) if each.sites]


def _measured(
    every: Mapping[str, SetBench],
    nulls: Mapping[str, NullEffects],
    damage_nulls: Mapping[str, NullEffects],
    grown: Sequence[Grown],
    sites: Together,
) -> tuple[SetEffects, ...]:
    chosen = list(dict.fromkeys(each.sites for each in grown))
    parts = {each: {name: joint_effects(bench, each, sites) for name, bench in every.items()} for each in chosen}
    found, lost = _of_nulls(nulls, chosen), _of_nulls(damage_nulls, chosen)
    return tuple(
        SetEffects(each, **parts[each.sites], nulls=found[each.sites], damage_nulls=lost[each.sites]) for each in grown
    )


def _of_nulls(nulls: Mapping[str, NullEffects], chosen: Sequence[Together]) -> dict[Together, dict[str, SetNull]]:
    found = {name: null(chosen) for name, null in nulls.items()} if chosen else {}
    return {
        each: {name: SetNull(effects[:, column], gaps) for name, (effects, gaps) in found.items()}
        for column, each in enumerate(chosen)
    }


def _curve(bench: SetBench, growth: Growth, sites: Together) -> Curve:
    order = tuple(sites[index] for index in growth.order)
    sizes, size = [], 1
    while size < len(order):
        sizes.append(size)
        size += 1 if size < ONE_BY_ONE else size // 4
    sizes += [len(order)] if order else []
    return Curve(bench.direction, order, growth.stopped, tuple(sizes), bench.effects([order[:size] for size in sizes]))


def _windows(bench: SetBench, sites: Together, alone: np.ndarray, in_discovery: np.ndarray) -> Windows:
    """Every window of neighbouring layers whose sites are all eligible, on the discovery pairs."""
    column = {str(site): index for index, site in enumerate(sites)}
    found: list[tuple[Site, list[int]]] = []
    for first in sites:
        assert isinstance(first.layer, int)  # an eligible site is of one layer
        layers = range(first.layer, first.layer + WINDOW)
        names = [str(replace(first, layer=layer)) for layer in layers]
        if all(name in column for name in names):
            found.append((replace(first, layer=layers), [column[name] for name in names]))
    joint, summed = (np.full((len(in_discovery), len(found)), np.nan) for _ in range(2))
    joint[in_discovery] = bench.effects([(window,) for window, _ in found])
    for index, (_, members) in enumerate(found):
        summed[in_discovery, index] = alone[:, members].sum(axis=1)
    return Windows(tuple(window for window, _ in found), joint, summed)


def _by_index(bench: SetBench, sites: Together) -> tuple[Joint, Cut]:
    """Joint shares and cuts of sets that are given as indices of the sites."""

    def named(sets: Sequence[Indices]) -> list[Together]:
        return [tuple(sites[index] for index in each) for each in sets]

    gap = bench.gaps.mean()
    return (
        lambda sets: np.asarray(bench.effects(named(sets)).mean(axis=0) / gap),
        lambda sets: bench.structural(named(sets)),
    )
