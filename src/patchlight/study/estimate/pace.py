"""How fast this machine does a study's work: from units that are done, and from a few that are tried for a minute."""

from __future__ import annotations

import math
import signal
import statistics
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from types import FrameType
from typing import Literal

from patchlight.run.units import Workplace
from patchlight.study.estimate.plan import Planned

Source = Literal["done", "measured", "borrowed"]
Trial = Callable[[float], float | None]
"""Works for so many seconds at most; the seconds that one piece of this work takes, None where none was finished."""

ALONE = 0.5  # a single sample may be off by so much, either way
LEAST = 0.25  # as far as several are trusted, however alike they are
BORROWED = 2.0  # a rate of other work may be off by this factor
WHOLE = 0.25  # of the time: what a trial that says nothing before its end may take
AGAIN = 0.01  # seconds after which a deadline that met other code is tried again
INTERRUPTED = ("patchlight.", "torch.nn.")
FIRST_ROUND = 0.6  # of the time: every family once; the rest goes to second samples


@dataclass(frozen=True)
class Rate:
    """Seconds for one piece of work of a family, as a range; where it comes from, and of how many samples it is."""

    low: float
    high: float
    source: Source
    samples: int


class Late(Exception):
    """The time of a trial is over."""


def tried(
    trials: Mapping[str, Trial],
    seconds: float,
    working: Callable[[str], AbstractContextManager[object]],
    whole: Collection[str] = (),
) -> dict[str, list[float]]:
    """By family, seconds for one piece of its work, of trials that take `seconds` in all; each runs inside `working`.

    Trials of `whole` say nothing before they end, or need long to begin: they come first, once, and each may take
    more than its share.
    """
    found: dict[str, list[float]] = defaultdict(list)
    end = perf_counter() + seconds
    first = sorted(trials, key=lambda family: family not in whole)
    second = [family for family in first if family not in whole]
    for families, part in ((first, FIRST_ROUND), (second, 1.0)):
        for rank, family in enumerate(families):
            left = end - perf_counter()
            share = max(part * left / (len(families) - rank), WHOLE * seconds if family in whole else 0.0)
            if left <= 0:
                return dict(found)
            with working(family):
                sample = trials[family](min(left, share))
            if sample is not None:
                found[family].append(sample)
    return dict(found)


def unit_trial(planned: Planned, folder: Path) -> Trial:
    """A trial of a unit: its own work, ended when its time is over, and thrown away."""

    def work(report: Callable[[float], None]) -> None:
        least, most = planned.amounts

        def on_progress(done: int, total: int) -> None:
            report(done * (most / max(total, 1) if least == most else 1.0))

        planned.unit.work(Workplace(folder, on_progress))
        if least == most:
            report(most)

    return watched(work)


def watched(work: Callable[[Callable[[float], None]], None]) -> Trial:
    """A trial of work that reports how much of it is done so far."""

    def trial(seconds: float) -> float | None:
        start, done, at = perf_counter(), 0.0, 0.0

        def report(amount: float) -> None:
            nonlocal done, at
            done, at = amount, perf_counter() - start
            if at > seconds:
                raise Late

        try:
            with deadline(seconds):
                work(report)
        except Late:
            pass
        return at / done if done else None

    return trial


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raises Late in its block when the time is over; only the main thread can be interrupted so.

    It is raised in code of ours or of torch alone: what a callback of the garbage collector raises is lost.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def late(_: int, frame: FrameType | None) -> None:
        if frame is not None and frame.f_globals.get("__name__", "").startswith(INTERRUPTED):
            raise Late

    start, handler = perf_counter(), signal.signal(signal.SIGALRM, late)
    others, _ = signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if others:  # somebody else's timer, which goes on
            signal.setitimer(signal.ITIMER_REAL, max(1e-3, others - (perf_counter() - start)))


def rates_of_done(planned: Sequence[Planned], seconds: Mapping[str, float]) -> dict[str, Rate]:
    """By family, the rate of the units that are done; `seconds` by their hash. Only exact amounts tell a rate."""
    samples: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for each in planned:
        least, most = each.amounts
        if each.unit.hash in seconds and least == most > 0:
            samples[each.family].append((seconds[each.unit.hash], most))
    found = {}
    for family, units in samples.items():
        whole = sum(taken for taken, _ in units) / sum(amount for _, amount in units)
        found[family] = _rate([taken / amount for taken, amount in units], "done", whole)
    return found


def rates_of_trials(samples: Mapping[str, Sequence[float]]) -> dict[str, Rate]:
    """By family, the rate that its trials told."""
    return {family: _rate(each, "measured", statistics.fmean(each)) for family, each in samples.items() if each}


def rate_for(planned: Planned, rates: Mapping[str, Rate]) -> Rate | None:
    """The rate of a unit's family, or one borrowed of the same stage, or (for patched runs) of other patched runs.

    None where nothing that was measured is like it.
    """
    if planned.family in rates:
        return rates[planned.family]
    alike = [rate for family, rate in rates.items() if family.split()[0] == planned.family.split()[0]]
    if not alike and planned.work == "runs":
        alike = [rate for family, rate in rates.items() if family.split()[0] in ("sweep", "controls")]
    if not alike:
        return None
    low, high = min(rate.low for rate in alike), max(rate.high for rate in alike)
    return Rate(low / BORROWED, high * BORROWED, "borrowed", 0)


def _rate(samples: Sequence[float], source: Source, mean: float) -> Rate:
    part = ALONE
    if len(samples) > 1:
        part = max(LEAST, 2 * statistics.stdev(samples) / math.sqrt(len(samples)) / mean)
    return Rate(mean / (1 + part), mean * (1 + part), source, len(samples))
