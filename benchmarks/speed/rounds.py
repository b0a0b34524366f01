"""Rounds: one peer at a time, one after the other, so that a slow minute of the machine hits all of them alike."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from benchmarks.speed.flops import Shape, naive, needed, rates, shape_of
from benchmarks.speed.models import model_folder
from benchmarks.speed.work import WORKLOADS, Place, Prompts, measured_part, places, random_prompts
from benchmarks.speed.worker import Worker, python_of

MODELS = Path("build/speed-models")
OURS = "patchlight"
Start = Callable[[str, Path], Worker]


@dataclass(frozen=True)
class Setting:
    """What is measured together; `differing` None stands for every position, `layers` None for the model's own."""

    model: str = "gpt2-small"
    layers: int | None = None
    pairs: int = 8
    tokens: int = 16
    differing: tuple[int, ...] | None = None
    workloads: tuple[str, ...] = tuple(WORKLOADS)
    peers: tuple[str, ...] = ("hooks", "hooks_batched", "transformer_lens", "nnsight", OURS)

    @property
    def positions(self) -> tuple[int, ...]:
        """The positions at which the pairs differ."""
        return tuple(range(self.tokens)) if self.differing is None else self.differing

    def quick(self) -> Setting:
        """The same in small: three layers, two pairs, eight tokens."""
        differing = None if self.differing is None else tuple(at * 8 // self.tokens for at in self.differing)
        return replace(self, layers=3, pairs=2, tokens=8, differing=differing)


@dataclass(frozen=True)
class Machine:
    """Where and with what everything runs."""

    threads: int
    device: str


@contextmanager
def starting(machine: Machine) -> Iterator[Start]:
    """A function that starts a peer with a model, or finds it running; all of them end with the context."""
    with ExitStack() as stack:
        yield cache(lambda peer, folder: stack.enter_context(_started(peer, folder, machine)))


def compare(setting: Setting, rounds: int, machine: Machine, start: Start) -> Iterator[dict[str, Any]]:
    """A measurement for each workload, round and peer of a setting, as it is made."""
    folder = model_folder(setting.model, setting.layers, MODELS)
    shape = shape_of(AutoConfig.from_pretrained(folder))
    prompts = random_prompts(setting.pairs, setting.tokens, setting.positions, shape.vocabulary)
    workers = [start(peer, folder) for peer in setting.peers]
    for workload in setting.workloads:
        every = places(workload, shape.layers, shape.heads, setting.tokens)
        part = measured_part(every, shape.layers, setting.tokens)
        for worker in workers:
            worker.ask(prompts.first(), part)  # warms up, not timed
        for number in range(rounds):
            common = _common(setting, machine, shape, every) | {"workload": workload, "round": number}
            for measured in _round(workers, prompts, every, part):
                yield common | measured


def atlas(setting: Setting, machine: Machine, start: Start) -> Iterator[dict[str, Any]]:
    """Patchlight alone: each workload in both directions, with all pairs, once."""
    folder = model_folder(setting.model, setting.layers, MODELS)
    shape = shape_of(AutoConfig.from_pretrained(folder))
    denoise = random_prompts(setting.pairs, setting.tokens, setting.positions, shape.vocabulary)
    worker = start(OURS, folder)
    worker.ask(denoise.first(), places("W1", shape.layers, shape.heads, setting.tokens))  # warms up
    for workload in setting.workloads:
        every = places(workload, shape.layers, shape.heads, setting.tokens)
        for direction, prompts in (("denoise", denoise), ("noise", denoise.reversed())):
            common = _common(setting, machine, shape, every) | {"workload": workload, "direction": direction}
            answer = worker.ask(prompts, every)
            yield common | {
                "seconds": answer.capture_seconds + answer.replace_seconds,
                "peak_mib": answer.peak_mib,
                "versions": worker.versions,
            }


def _common(setting: Setting, machine: Machine, shape: Shape, every: Sequence[Place]) -> dict[str, Any]:
    """The setting, its operations, and what the machine can do just now."""
    operations = {
        "naive_flop": naive(shape, every, setting.pairs, setting.tokens),
        "needed_flop": needed(shape, every, setting.pairs, setting.tokens, setting.positions),
    }
    return asdict(setting) | asdict(machine) | operations | {"rates": rates(machine.device)}


def _round(
    workers: Sequence[Worker], prompts: Prompts, every: Sequence[Place], part: Sequence[Place]
) -> Iterator[dict[str, Any]]:
    """Each peer once. A peer that runs a whole forward a place replaces a part of them, and that step is scaled."""
    reference: dict[Place, list[float]] = {}
    for worker in workers:
        done = part if worker.a_forward_each else every
        answer = worker.ask(prompts, done)
        values = dict(zip(done, answer.values, strict=True))
        reference = reference or values
        scale = len(every) / len(done)
        yield {
            "peer": worker.peer,
            "versions": worker.versions,
            "seconds": answer.capture_seconds + scale * answer.replace_seconds,
            "measured_seconds": answer.capture_seconds + answer.replace_seconds,
            "scale": scale,
            "peak_mib": answer.peak_mib,
            "difference_from": workers[0].peer,
            "largest_difference": _largest_difference(values, reference),
        }


def _largest_difference(values: dict[Place, list[float]], reference: dict[Place, list[float]]) -> float:
    shared = values.keys() & reference.keys()
    return max(abs(one - other) for place in shared for one, other in zip(values[place], reference[place], strict=True))


def _started(peer: str, folder: Path, machine: Machine) -> Worker:
    python = python_of(peer)
    if python is None:
        sys.exit(f"{peer} has no environment yet: run `make bench` or `make parity`, which make it")
    return Worker(python, peer, folder, device=machine.device, threads=machine.threads)
