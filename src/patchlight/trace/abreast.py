"""Two pieces of work side by side: each thread has half of the processor, and neither waits for the other's parts.

Products of matrices share their threads badly between small steps: what is serial in one pass, and the time to wake
threads up, is filled by the other pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextvars import copy_context
from threading import Event
from typing import TypeVar

import torch

Done = TypeVar("Done")
THREADS = 2


class Stopped(Exception):
    """The other work failed, or was interrupted."""


def lanes(device: torch.device) -> int:
    """How many pieces of work run side by side: 2 on a processor with threads to share, 1 elsewhere."""
    return min(THREADS, torch.get_num_threads()) if device.type == "cpu" else 1


def abreast(works: Sequence[Callable[[Event], Done]], count: int) -> Iterator[tuple[int, Done]]:
    """The place and the result of each piece of work, as it is done, `count` at a time.

    Each gets an event that is set when it should end early (by raising `Stopped`). The first error is raised, once
    all have ended.
    """
    stop = Event()
    if count < 2 or len(works) < 2:
        for place, work in enumerate(works):
            yield place, work(stop)
        return
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(max(1, threads // count),))
    try:
        places = {pool.submit(copy_context().run, work, stop): place for place, work in enumerate(works)}
        for future in as_completed(places):
            yield places[future], future.result()
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # threads begun later take the last number that was set in any
