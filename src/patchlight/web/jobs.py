"""Work that takes longer than a page: commands of ours in processes of their own, with what they said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from patchlight.errors import InputError

MOST_KEPT = 50
MOST_SAID = 20_000  # characters of what a command said
GRACE_SECONDS = 20.0


@dataclass
class Job:
    """One command; `code` is its exit code, None while it runs."""

    name: str
    by: str
    arguments: tuple[str, ...]
    process: subprocess.Popen[bytes] = field(repr=False)
    said: IO[bytes] = field(repr=False)
    started: float = field(default_factory=time.time)

    @property
    def code(self) -> int | None:
        """The exit code, None while it runs."""
        return self.process.poll()

    @property
    def text(self) -> str:
        """The end of what the command said."""
        size = os.fstat(self.said.fileno()).st_size
        start = max(0, size - MOST_SAID)
        return os.pread(self.said.fileno(), size - start, start).decode(errors="replace")

    @property
    def shown(self) -> dict[str, object]:
        """What pages show of it."""
        return {"name": self.name, "by": self.by, "code": self.code, "text": self.text, "started": self.started}


class Jobs:
    """The commands that this server has started; one of a name at a time."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []
        self._lock = threading.Lock()

    def start(self, name: str, by: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> Job:
        """`patchlight ARGUMENTS` in a process of its own.

        Raises InputError `web-job-runs` where one of this name runs.
        """
        with self._lock:
            if any(each.name == name and each.code is None for each in self._jobs):
                raise InputError("web-job-runs", f"{name} is running already", fix="wait until it has ended")
            said = tempfile.TemporaryFile()  # noqa: SIM115  (it lives as long as the job is shown)
            process = subprocess.Popen(
                [sys.executable, "-m", "patchlight.cli.main", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,  # Ctrl-C in the server's terminal is for the server, which then asks its jobs
            )
            job = Job(name, by, tuple(arguments), process, said)
            self._jobs = [*self._jobs, job][-MOST_KEPT:]
            return job

    def listed(self, name: str = "") -> list[Job]:
        """The jobs whose name begins so, newest first."""
        return [each for each in reversed(self._jobs) if each.name.startswith(name)]

    def pause(self, name: str) -> None:
        """The running job of this name is asked to stop as by Ctrl-C: what is finished is kept."""
        for each in self.listed(name):
            if each.name == name and each.code is None:
                each.process.send_signal(signal.SIGINT)

    def end(self) -> None:
        """No job is left running: each is asked to stop, and killed where it does not."""
        running = [each for each in self._jobs if each.code is None]
        for each in running:
            each.process.send_signal(signal.SIGINT)
        until = time.monotonic() + GRACE_SECONDS
        for each in running:
            try:
                each.process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                each.process.kill()
                each.process.wait()
        for each in self._jobs:
            each.said.close()


def review_place(workspace: Path, database_url: str | None) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment with which a command finds the same review; a URL, which may hold a password, is not
    among the arguments, which everybody on the machine can read.
    """
    return ["--workspace", str(workspace)], {"PATCHLIGHT_DATABASE": database_url} if database_url else {}
