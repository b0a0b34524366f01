"""One driver per workspace: a row in the database says who drives, and a dead driver's row is taken over."""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psutil  # type: ignore[import-untyped]
from sqlalchemy import Connection, Engine, Row, delete, insert, select, update
from sqlalchemy.exc import OperationalError

from patchlight.errors import EnvironmentProblem
from patchlight.store.database import driver, writing

HEARTBEAT_SECONDS = 10.0
SILENT_SECONDS = 60.0

# The leases of this process. A row of ours that is not among them could not be deleted, on a full disk.
_held: set[str] = set()


@contextmanager
def held_lease(engine: Engine) -> Iterator[str]:
    """The token of a lease that this process holds until the block ends.

    Raises `EnvironmentProblem` `store-in-use` while another driver lives.
    """
    token = uuid.uuid4().hex
    with writing(engine) as connection:
        _take(connection, token)
    _held.add(token)
    stop = threading.Event()
    beating = threading.Thread(target=_beat, args=(engine, token, stop), daemon=True)
    beating.start()
    try:
        yield token
    finally:
        stop.set()
        beating.join()
        _held.discard(token)
        with suppress(OperationalError), writing(engine) as connection:
            connection.execute(delete(driver).where(driver.c.token == token))


def require_lease(connection: Connection, token: str) -> None:
    """Raises `EnvironmentProblem` `store-lease-lost` where another driver has taken over since."""
    if connection.scalar(select(driver.c.token)) != token:
        raise EnvironmentProblem(
            "store-lease-lost",
            "another process took this workspace over while this one was silent",
            fix="let the other process finish, or stop it and run again",
        )


@dataclass(frozen=True)
class Driver:
    """The process that works in a workspace."""

    host: str
    pid: int

    @property
    def here(self) -> bool:
        """True where it runs on this machine."""
        return self.host == socket.gethostname()


def driver_of(connection: Connection) -> Driver | None:
    """The driver that holds the lease and lives; None where nobody does."""
    holder = connection.execute(select(driver)).one_or_none()
    return Driver(holder.host, holder.pid) if holder is not None and _alive(holder) else None


def _take(connection: Connection, token: str) -> None:
    holder = connection.execute(select(driver)).one_or_none()
    if holder is not None and _alive(holder):
        raise EnvironmentProblem(
            "store-in-use",
            f"process {holder.pid} on {holder.host} is already working in this workspace",
            fix="wait until it is done, or stop it and run again",
        )
    connection.execute(delete(driver))
    connection.execute(
        insert(driver).values(
            id=1,
            token=token,
            host=socket.gethostname(),
            pid=os.getpid(),
            process_started=psutil.Process().create_time(),
            heartbeat=time.time(),
        )
    )


def _alive(holder: Row[tuple[object, ...]]) -> bool:
    """Whether the driver lives: by its process on this machine, by its heartbeat on another."""
    if holder.host != socket.gethostname():
        return bool(time.time() - holder.heartbeat < SILENT_SECONDS)
    try:
        # A process id alone is not enough: the system gives it to another process in time.
        same = abs(psutil.Process(holder.pid).create_time() - holder.process_started) < 1.0
    except psutil.NoSuchProcess:
        return False
    return same and (holder.pid != os.getpid() or holder.token in _held)


def _beat(engine: Engine, token: str, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_SECONDS):
        # A missed beat is no fault in itself: `require_lease` guards every write.
        with suppress(OperationalError), writing(engine) as connection:
            connection.execute(update(driver).where(driver.c.token == token).values(heartbeat=time.time()))
