"""The smallest set of sites that gives back enough: grown greedily on joint effects, then freed of the needless.

Every joint effect is exact; which sets are tried is a choice. In each step only a shortlist is tried: the sites whose
last known gain is largest, and those that are strongest alone in the other direction, because a site that is needed
together with another (AND) shows nothing alone in one direction and everything in the other; where nothing gains, the
strongest of these is added. So a set that is found really reaches its share on these facts, and a smaller one that
was never tried may exist.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

Indices = tuple[int, ...]
Joint = Callable[[Sequence[Indices]], "Float[np.ndarray, ' set']"]
Cut = Callable[[Sequence[Indices]], "Bool[np.ndarray, ' set']"]
SHORTLIST = 8  # sites tried in a step
LEAST_GAIN = 0.02  # of the gap: what is less does not decide which site comes next
PATIENCE = 4  # steps without a larger joint effect: an AND of more sites than this is not found
Stop = Literal["reached", "largest", "no gain", "no site left"]


@dataclass(frozen=True)
class Growth:
    """Sites (as indices of the candidates) in the order in which they were added, and the joint share of each prefix.

    `stopped` says why: the share was reached, the set grew to its `largest` size, nothing gained any more, or no
    site was left that would not complete a cut.
    """

    order: Indices
    joint: tuple[float, ...]
    stopped: Stop

    def reaching(self, share: float) -> Indices | None:
        """The first prefix with that joint share; None where none has it."""
        sizes = [size for size, joint in enumerate(self.joint, 1) if joint >= share]
        return self.order[: sizes[0]] if sizes else None


def grow(
    joint: Joint,
    alone: Float[np.ndarray, " candidate"],
    other: Float[np.ndarray, " candidate"],
    *,
    share: float,
    largest: int,
    cut: Cut = lambda sets: np.zeros(len(sets), dtype=bool),
    shortlist: int = SHORTLIST,
) -> Growth:
    """The growth of a set until its joint effect reaches `share`, or it has `largest` sites.

    `joint` gives the joint share of sets, `alone` that of each candidate alone, `other` that of each alone in the
    other direction. A site whose addition makes a `cut` (everything restored by construction) is never added.
    """
    gain, left = alone.astype(float), np.ones(len(alone), dtype=bool)
    order: list[int] = []
    curve: list[float] = []
    stopped: Stop | None = None
    while stopped is None:
        listed = _shortlist(gain, other, left, shortlist)
        whole = cut([(*order, candidate) for candidate in listed])
        tried = [candidate for candidate, is_cut in zip(listed, whole, strict=True) if not is_cut]
        left[[candidate for candidate in listed if candidate not in tried]] = False
        if tried:
            shares = joint([(*order, candidate) for candidate in tried])
            gain[tried] = shares - (curve[-1] if curve else 0.0)
            best = int(np.argmax(gain[tried] if gain[tried].max() >= LEAST_GAIN else other[tried]))
            order.append(tried[best])
            curve.append(float(shares[best]))
            left[tried[best]] = False
        stopped = _stopped(curve, left, share, largest)
    size = int(np.argmax(curve)) + 1 if curve else 0  # what came after the largest joint effect brought nothing
    return Growth(tuple(order[:size]), tuple(curve[:size]), stopped)


def lean(joint: Joint, sites: Indices, share: float) -> Indices:
    """The set without the sites that it can do without, one after another, while its joint share stays at `share`."""
    while len(sites) > 1:
        without = [tuple(other for other in sites if other != site) for site in sites]
        shares = joint(without)
        if shares.max() < share:
            break
        sites = without[int(np.argmax(shares))]
    return sites


def _shortlist(gain: np.ndarray, other: np.ndarray, left: np.ndarray, size: int) -> list[int]:
    """Half by the last known gain, half by the effect alone in the other direction."""
    by_gain, by_other = (
        [int(index) for index in np.argsort(-strength, kind="stable") if left[index]] for strength in (gain, other)
    )
    half = dict.fromkeys([*by_gain[: size // 2], *by_other[: size // 2]])
    return list(dict.fromkeys([*half, *by_gain]))[:size]


def _stopped(curve: Sequence[float], left: np.ndarray, share: float, largest: int) -> Stop | None:
    if curve and curve[-1] >= share:
        return "reached"
    if len(curve) >= largest:
        return "largest"
    if not left.any():
        return "no site left"
    if len(curve) - int(np.argmax(curve) if curve else 0) > PATIENCE:
        return "no gain"
    return None
