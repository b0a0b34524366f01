"""Work done side by side, and passes of the engine that are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, current_thread, main_thread

import pytest
import torch

from patchlight import TokenPair, sweep
from patchlight.trace.abreast import abreast, lanes


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def test_each_of_two_works_has_half_of_the_threads_and_the_caller_all_of_them_again() -> None:
    with threads(4):
        found = dict(abreast([lambda _: torch.get_num_threads()] * 3, 2))
        assert found == {0: 2, 1: 2, 2: 2}
        assert torch.get_num_threads() == 4
        begun_later = dict(abreast([lambda _: torch.get_num_threads()] * 2, 2))
        assert begun_later == {0: 2, 1: 2}


def test_two_works_run_at_the_same_moment() -> None:
    here, there = Event(), Event()

    def meet(mine: Event, other: Event) -> bool:
        mine.set()
        return other.wait(10)

    assert dict(abreast([lambda _: meet(here, there), lambda _: meet(there, here)], 2)) == {0: True, 1: True}


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_in_one_is_raised_and_the_others_are_told_to_stop(count: int) -> None:
    ended: list[bool] = []

    def fails(_: Event) -> None:
        raise MemoryError("full")

    def waits(stop: Event) -> None:
        ended.append(stop.wait(10))

    with pytest.raises(MemoryError, match="full"):
        dict(abreast([fails, waits, waits], count))
    assert all(ended)


def test_side_by_side_only_on_a_processor_with_threads_to_share() -> None:
    with threads(1):
        assert lanes(torch.device("cpu")) == 1
    with threads(3):
        assert lanes(torch.device("cpu")) == 2
    assert lanes(torch.device("cuda")) == 1


def test_two_passes_at_a_time_give_what_one_gives(tiny, family: str) -> None:
    model = tiny(family)
    pairs = [TokenPair((1, 2, 3, 4), (1, 5, 3, 6 + n), (7,), (8,)) for n in range(3)]
    found = []
    for count in (1, 2):
        with threads(count):
            found.append(sweep(model, pairs, component="mlp_out").values)
    assert abs(found[0] - found[1]).max() < 1e-9


def test_an_interrupted_pass_ends_the_sweep_and_leaves_the_model_as_it_was(tiny) -> None:
    model = tiny("gpt2")
    pairs = [TokenPair((1, 2, 3, 4), (1, 5, 3, 6 + n), (7,), (8,)) for n in range(3)]

    def interrupted(*_: object) -> None:
        if current_thread() is not main_thread():
            raise KeyboardInterrupt

    block = model.layers[1]
    handle = block.register_forward_pre_hook(interrupted)
    try:
        with threads(2), pytest.raises(KeyboardInterrupt):
            sweep(model, pairs, component="resid_pre")
    finally:
        handle.remove()
    with threads(2):
        assert abs(sweep(model, pairs).values).max() > 0
