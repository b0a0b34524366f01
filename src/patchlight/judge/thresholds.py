"""The numbers that the rule of the verdict is made of, in one place."""

from __future__ import annotations

from dataclasses import dataclass, replace

from patchlight.verify.calibration import is_calibrated

CHOSEN = ("confirmed", "small", "spread")  # on models whose truth is known; the others are set by good sense


@dataclass(frozen=True)
class Thresholds:
    """Bars of the rule in `judge.verdict`; shares are of the gap unless something else is said.

    `patchlight passport --calibrate` weighs those in `CHOSEN` on models whose truth is known, and its record ships
    (`verify/calibration.json`). `calibrated` says that these bars are the recorded choice and that the passport meets
    its targets on other models; every verdict says so where it is False.
    """

    known_facts: int = 5  # a model that answers fewer has nothing to localise
    templates: int = 2  # one wording cannot tell the fact from its wording
    share: float = 0.8  # what a set has to reach on the discovery facts
    confirmed: float = 0.5  # held-out facts: the interval of what a set moves lies above this
    small: float = 0.1  # of the eligible sites: a small set has at most this many
    small_of_cut: float = 1 / 3  # and at most this part of the smallest set that restores everything by construction
    spread: float = 2.0  # distributed: not even so many times a small set reaches the share
    surplus: float = 0.1  # together more than one by one: the interval of the difference lies above this
    facts_for_coverage: int = 40  # measured: 95 % intervals cover 93 to 97 % from here on (92.8 % if strongly skewed)
    calibrated: bool = False

    def small_set(self, eligible: int, cut: int | None) -> int:
        """How many sites a small set has at most: at least one."""
        limits = [self.small * eligible, *([] if cut is None else [self.small_of_cut * cut])]
        return max(1, int(min(limits)))


_SET = Thresholds()
THRESHOLDS = replace(_SET, calibrated=is_calibrated({name: getattr(_SET, name) for name in CHOSEN}))
