"""How often somebody may try a password: a few wrong tries, then a wait; and few tries at one moment."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from patchlight.errors import InputError

WAIT_SECONDS = 300.0
WRONG_TRIES = {"name": 5, "address": 50}
AT_ONCE = 2  # argon2 takes 64 MiB a try
MOST_KEPT = 10_000


class Tries:
    """The wrong tries of the last five minutes, by name and by address, in this process.

    Whoever hashes a password does it inside `turn`, so that many requests do not fill the memory.
    """

    def __init__(self) -> None:
        self._wrong: dict[tuple[str, str], deque[float]] = {}
        self._lock = threading.Lock()
        self.turn = threading.BoundedSemaphore(AT_ONCE)

    @contextmanager
    def one(self, name: str, address: str) -> Iterator[Callable[[], None]]:
        """One try, wrong unless the function that is yielded was called.

        Raises InputError `web-too-many-tries` where there were too many wrong ones for this name or from this address.
        """
        keys = [("name", name.strip()[:80]), ("address", address)]
        with self._lock:
            self._forget_old(time.monotonic())
            if any(len(self._wrong.get(key, ())) >= WRONG_TRIES[key[0]] for key in keys):
                raise InputError("web-too-many-tries", "too many wrong tries", fix="wait five minutes and try again")
            # Counted before it is known, so that tries at one moment count too.
            moment = time.monotonic()
            for key in keys:
                self._wrong.setdefault(key, deque()).append(moment)

        def right() -> None:
            with self._lock:
                self._wrong.pop(keys[0], None)
                mine = self._wrong.get(keys[1])
                if mine and moment in mine:
                    mine.remove(moment)

        with self.turn:
            yield right

    def _forget_old(self, now: float) -> None:
        for key, moments in list(self._wrong.items()):
            while moments and moments[0] <= now - WAIT_SECONDS:
                moments.popleft()
            if not moments:
                del self._wrong[key]
        while len(self._wrong) > MOST_KEPT:
            del self._wrong[next(iter(self._wrong))]
