"""Progress: honest ranges, plain lines without a terminal, and both languages."""

import io
import os
import pty
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchlight.run.progress import Language, Pace, PlainProgress, Progress, TerminalProgress, open_progress


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@given(seconds=st.floats(0.01, 1000), done=st.integers(1, 40), total=st.integers(41, 200))
def test_an_even_pace_has_the_true_rest_within_its_range(seconds: float, done: int, total: int) -> None:
    clock = Clock()
    pace = Pace(clock)
    for finished in range(1, done + 1):
        clock.now += seconds
        pace.advance(finished)
    left = pace.left(total)
    assert left is not None
    assert left[0] <= (total - done) * seconds <= left[1]


def test_the_range_narrows_as_work_goes_on() -> None:
    clock = Clock()
    pace = Pace(clock)
    widths = []
    for finished in range(1, 51):
        clock.now += 2.0
        pace.advance(finished)
        low, high = pace.left(100) or (0.0, 0.0)
        widths.append(high / low)
    assert widths[0] > 2 > 1.5 > widths[-1]


def test_work_that_slows_down_widens_the_range_upwards() -> None:
    clock = Clock()
    pace = Pace(clock)
    for finished in range(1, 21):
        clock.now += 1.0 if finished <= 10 else 4.0
        pace.advance(finished)
    low, high = pace.left(40) or (0.0, 0.0)
    assert high > 20 * 4.0 > low


def test_a_long_silence_opens_the_range_and_never_says_done() -> None:
    clock = Clock()
    pace = Pace(clock)
    for finished in range(1, 11):
        clock.now += 1.0
        pace.advance(finished)
    low, high = pace.left(20) or (0.0, 0.0)
    clock.now += 500.0
    silent_low, silent_high = pace.left(20) or (0.0, 0.0)
    assert silent_low == 0.0 < low
    assert silent_high > 500.0 > high


def test_a_million_steps_in_no_time_are_no_fault() -> None:
    clock = Clock()
    pace = Pace(clock)
    for finished in range(1, 5001):
        clock.now += 1e-9
        pace.advance(finished / 5000)
    assert pace.left(1) == (0.0, 0.0)


def test_before_the_first_step_there_is_no_guess() -> None:
    assert Pace(Clock()).left(10) is None


@contextmanager
def plain(language: Language = "en", every: float = 30.0) -> Iterator[tuple[Progress, io.StringIO, Clock]]:
    stream, clock = io.StringIO(), Clock()
    yield PlainProgress(stream, language, clock, every), stream, clock


def test_plain_lines_open_and_close_a_stage_and_notes_stand_between() -> None:
    with plain() as (progress, stream, clock), progress.stage("sweep", 4, 3):
        for number in range(4):
            with progress.unit(f"unit {number}") as on_progress:
                clock.now += 60
                on_progress(1, 2)
                clock.now += 60
            if number == 1:
                progress.note("unit 1: failed")
                progress.note(progress.state())
    lines = stream.getvalue().splitlines()
    assert lines[0] == "sweep | 0 of 4 units, 3 already there"
    assert lines[1] == "unit 1: failed"
    assert re.fullmatch(r"2 of 4 units, 3 already there, 30\.0/h, \d+ to \d+ min left", lines[2])
    assert lines[3] == "sweep | 4 of 4 units, 3 already there"
    assert len(lines) == 4


def test_a_long_silent_unit_still_gives_a_line() -> None:
    seen = threading.Event()

    class Watched(io.StringIO):
        def write(self, text: str) -> int:
            if "slow one" in text:
                seen.set()
            return super().write(text)

    progress = PlainProgress(Watched(), every=0.01)
    with progress.stage("training", 1), progress.unit("slow one"):
        assert seen.wait(5)


def test_japanese_progress_speaks_japanese() -> None:
    with plain("ja") as (progress, stream, clock), progress.stage("掃引", 2), progress.unit("一"):
        clock.now += 10
    assert stream.getvalue().splitlines()[0] == "掃引 | 2 単位中 0 完了"
    assert "Ctrl-C" in progress.footer()


def test_a_stage_that_breaks_off_ends_its_display() -> None:
    threads = threading.active_count()
    with plain() as (progress, _, _), pytest.raises(KeyboardInterrupt), progress.stage("sweep", 4):
        raise KeyboardInterrupt
    assert threading.active_count() == threads


def read_to_the_end(reader: int, chunks: list[bytes]) -> None:
    """Collects what a terminal shows, until its other end is closed (then it raises)."""
    with suppress(OSError):
        while True:
            chunks.append(os.read(reader, 4096))


def test_a_terminal_gets_a_bar_and_hears_that_ctrl_c_is_safe() -> None:
    reader, writer = pty.openpty()
    chunks: list[bytes] = []
    reading = threading.Thread(target=read_to_the_end, args=(reader, chunks))
    reading.start()
    with os.fdopen(writer, "w") as stream:
        progress = open_progress("en", stream)
        assert isinstance(progress, TerminalProgress)
        with progress.stage("sweep", 3):
            for number in range(3):
                with progress.unit(f"unit {number}"):
                    time.sleep(0.05)
            progress.note("a note with [brackets]")
    reading.join()
    os.close(reader)
    shown = b"".join(chunks).decode()
    assert "3 of 3 units" in shown
    assert "Ctrl-C is safe" in shown
    assert "a note with [brackets]" in shown


def test_a_file_gets_plain_lines() -> None:
    assert isinstance(open_progress("en", io.StringIO()), PlainProgress)
