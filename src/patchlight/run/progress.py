"""How far the work is: units done, rate, time left as a range. Shown on stderr, never on stdout."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil, floor
from typing import Literal, TextIO

from rich.console import Console, RenderableType
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

Language = Literal["en", "ja"]
PLAIN_SECONDS = 30.0
MOST_SAMPLES = 400

PHRASES: dict[Language, dict[str, str]] = {
    "en": {
        "state": "{done} of {total} units",
        "kept": "{kept} already there",
        "left": "{low} to {high} {unit} left",
        "safe": "Ctrl-C is safe: the same command goes on from here",
        "seconds": "s",
        "minutes": "min",
        "hours": "h",
    },
    "ja": {
        "state": "{total} 単位中 {done} 完了",
        "kept": "計算済み {kept}",
        "left": "残り {low}〜{high} {unit}",
        "safe": "Ctrl-C で安全に中断できます(同じコマンドで再開)",
        "seconds": "秒",
        "minutes": "分",
        "hours": "時間",
    },
}


class Pace:
    """How fast work has gone, and from that how long the rest takes; work is counted in units."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start = clock()
        self._samples = [(0.0, 0.0)]

    def advance(self, done: float) -> None:
        """Takes in that `done` units of work are finished by now."""
        if done > self._samples[-1][1]:
            self._samples.append((self._clock() - self._start, done))
        if len(self._samples) > MOST_SAMPLES:
            self._samples = self._samples[::2]

    @property
    def rate(self) -> float:
        """Units of work per second since the start, silence included; 0 before the first one."""
        elapsed = self._clock() - self._start
        return self._samples[-1][1] / elapsed if elapsed > 0 else 0.0

    def left(self, total: float) -> tuple[float, float] | None:
        """The shortest and longest likely rest in seconds, or None before there is anything to go by.

        The ends are the pace of the whole stage and that of its last quarter, widened by a tenth and by
        more while few steps have been seen. In a long silence the range opens.
        """
        samples = list(self._samples)  # a copy: the display reads in its own thread
        now, done = samples[-1]
        if now <= 0:
            return None
        earlier, done_earlier = [sample for sample in samples if sample[0] <= 0.75 * now][-1]
        recent = (done - done_earlier) / (now - earlier)
        rests = sorted((total - done) / rate for rate in (self.rate, recent))
        spread = 1.1 + 1.0 / len(samples)
        silent = self._clock() - self._start - now
        return max(0.0, rests[0] / spread - silent), rests[1] * spread


class Progress:
    """The progress of a run that nobody watches; its subclasses show it.

    Usage: `with progress.stage(name, total, kept)`, in it `with progress.unit(label) as on_progress`.
    """

    def __init__(self, language: Language = "en", clock: Callable[[], float] = time.monotonic) -> None:
        self._phrases = PHRASES[language]
        self._clock = clock
        self._name, self._label, self._total, self._kept, self._done = "", "", 0, 0, 0.0
        self._detail = ""
        self._pace = Pace(clock)

    @contextmanager
    def stage(self, name: str, total: int, kept: int = 0) -> Iterator[None]:
        """Inside it `total` units are computed, beside `kept` that are already there."""
        self._name, self._label, self._total, self._kept, self._done = name, "", total, kept, 0.0
        self._pace = Pace(self._clock)
        self._begin()
        try:
            yield
        finally:
            self._end()

    @contextmanager
    def unit(self, label: str) -> Iterator[Callable[[int, int], None]]:
        """`on_progress(done, total)` of one unit; at the end of the block the unit counts as done."""
        self._label, before = label, self._done

        def on_progress(done: int, total: int) -> None:
            self._moved(before + min(1.0, done / max(1, total)))

        yield on_progress
        self._label = self._detail = ""
        self._moved(before + 1.0)

    def note(self, text: str) -> None:
        """A line that the reader should see is shown."""

    def detail(self, text: str) -> None:
        """What the unit at work says of itself, shown beside its label until it ends or says something else."""
        self._detail = text

    def state(self) -> str:
        """One line: units done, those already there, rate, time left as a range."""
        say = self._phrases
        parts = [say["state"].format(done=int(self._done), total=self._total)]
        if self._kept:
            parts.append(say["kept"].format(kept=self._kept))
        left = self._pace.left(self._total)
        if left is not None and self._done < self._total:
            parts += [self._rate(), self._left(*left)]
        return ", ".join(parts)

    def footer(self) -> str:
        """One line: the unit at work, and that Ctrl-C is safe."""
        return " | ".join(part for part in (self._label, self._detail, self._phrases["safe"]) if part)

    def _moved(self, done: float) -> None:
        self._done = done
        self._pace.advance(done)

    def _rate(self) -> str:
        rate = self._pace.rate
        factor, unit = (1, "seconds") if rate >= 1 else (60, "minutes") if rate >= 1 / 60 else (3600, "hours")
        return f"{rate * factor:.1f}/{self._phrases[unit]}"

    def _left(self, low: float, high: float) -> str:
        size, unit = (1, "seconds") if high < 90 else (60, "minutes") if high < 5400 else (3600, "hours")
        tenths = 10 if unit == "hours" else 1
        ends = {"low": floor(low / size * tenths) / tenths, "high": ceil(high / size * tenths) / tenths}
        shown = {end: f"{value:g}" for end, value in ends.items()}
        return self._phrases["left"].format(**shown, unit=self._phrases[unit])

    def _begin(self) -> None:
        """What a subclass does when a stage begins."""

    def _end(self) -> None:
        """What a subclass does when a stage ends, in whatever way."""


class PlainProgress(Progress):
    """Progress as plain lines: at the start and the end of a stage, and every `every` seconds between."""

    def __init__(
        self,
        stream: TextIO,
        language: Language = "en",
        clock: Callable[[], float] = time.monotonic,
        every: float = PLAIN_SECONDS,
    ) -> None:
        super().__init__(language, clock)
        self._stream, self._every = stream, every

    def note(self, text: str) -> None:
        """The line is written."""
        print(text, file=self._stream, flush=True)

    def _line(self) -> None:
        self.note(" | ".join(part for part in (self._name, self._label, self._detail, self.state()) if part))

    def _begin(self) -> None:
        self._line()
        self._stop = threading.Event()
        self._ticking = threading.Thread(target=self._tick, daemon=True)
        self._ticking.start()

    def _end(self) -> None:
        self._stop.set()
        self._ticking.join()
        if self._total:
            self._line()

    def _tick(self) -> None:
        while not self._stop.wait(self._every):
            self._line()


class TerminalProgress(Progress):
    """Progress as a bar that moves, for a person at a terminal."""

    def __init__(self, stream: TextIO, language: Language = "en") -> None:
        super().__init__(language)
        self._console = Console(file=stream)

    def note(self, text: str) -> None:
        """The line is written above the bar."""
        self._console.print(text, markup=False, highlight=False)

    def _begin(self) -> None:
        self._bars = _Bars(self, self._console)
        self._bar = self._bars.add_task(self._name, total=self._total)
        self._bars.start()

    def _end(self) -> None:
        self._bars.stop()

    def _moved(self, done: float) -> None:
        super()._moved(done)
        self._bars.update(self._bar, completed=done)


class _Bars(Bars):
    """The bar of a stage with its state, and below it the unit at work and that Ctrl-C is safe."""

    def __init__(self, progress: Progress, console: Console) -> None:
        self._progress = progress
        super().__init__(TextColumn("{task.description}", markup=False), BarColumn(24), console=console)

    def get_renderables(self) -> Iterator[RenderableType]:
        """The lines of the display; made anew several times a second, so that the time left stays true."""
        line = Table.grid(padding=(0, 1))
        line.add_row(*super().get_renderables(), Text(self._progress.state()))
        yield line
        yield Text(self._progress.footer(), style="dim")


def open_progress(language: Language = "en", stream: TextIO | None = None) -> Progress:
    """The progress display that suits the stream (stderr unless said): a moving bar, or plain lines."""
    stream = stream or sys.stderr
    return TerminalProgress(stream, language) if stream.isatty() else PlainProgress(stream, language)
