"""Rounds: one peer at a time, one after the other, so that a slow minute of the machine hits all of them alike."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.speed.flops import naive, needed, rates, shape_of
from benchmarks.speed.models import model_folder
from benchmarks.speed.work import WORKLOADS, Place, Prompts, measured_part, places, random_prompts
from benchmarks.speed.worker import Worker, python_of

MODELS = Path("build/speed-models")
OURS = "patchlight"


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


def compare(setting: Setting, rounds: int, machine: Machine) -> Iterator[dict[str, Any]]:
    """A measurement for each workload, round and peer of a setting, as it is made."""
    folder = model_folder(setting.model, setting.layers, MODELS)
    config = _config(folder)
    shape = shape_of(config)
    prompts = random_prompts(setting.pairs, setting.tokens, setting.positions, shape.vocabulary)
    with ExitStack() as stack:
        workers = [stack.enter_context(_start(peer, folder, machine)) for peer in setting.peers]
        for workload in setting.workloads:
            every = places(workload, shape.layers, shape.heads, setting.tokens)
            part = measured_part(every, shape.layers, setting.tokens)
            for worker in workers:
                worker.ask(prompts.first(), part)  # warms up, not timed
            size = {
                "naive_flop": naive(shape, every, setting.pairs, setting.tokens),
                "needed_flop": needed(shape, every, setting.pairs, setting.tokens, setting.positions),
            }
            for number in range(rounds):
                common = asdict(setting) | size | {"workload": workload, "round": number}
                common |= {"threads": machine.threads, "device": machine.device, "rates": rates(machine.device)}
                for measured in _round(workers, prompts, every, part):
                    yield common | measured


def atlas(setting: Setting, machine: Machine) -> Iterator[dict[str, Any]]:
    """Patchlight alone: each workload in both directions, with all pairs, once."""
    folder = model_folder(setting.model, setting.layers, MODELS)
    shape = shape_of(_config(folder))
    denoise = random_prompts(setting.pairs, setting.tokens, setting.positions, shape.vocabulary)
    with _start(OURS, folder, machine) as worker:
        worker.ask(denoise.first(), places("W1", shape.layers, shape.heads, setting.tokens))
        for workload in setting.workloads:
            every = places(workload, shape.layers, shape.heads, setting.tokens)
            for direction, prompts in (("denoise", denoise), ("noise", denoise.reversed())):
                answer = worker.ask(prompts, every)
                yield asdict(setting) | {
                    "peer": OURS,
                    "workload": workload,
                    "direction": direction,
                    "seconds": answer.capture_seconds + answer.replace_seconds,
                    "peak_mib": answer.peak_mib,
                    "needed_flop": needed(shape, every, setting.pairs, setting.tokens, setting.positions),
                    "threads": machine.threads,
                    "device": machine.device,
                    "rates": rates(machine.device),
                    "versions": worker.versions,
                }


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


def _start(peer: str, folder: Path, machine: Machine) -> Worker:
    python = python_of(peer)
    if python is None:
        sys.exit(f"{peer} has no environment yet: run `make bench` or `make parity`, which make it")
    return Worker(python, peer, folder, device=machine.device, threads=machine.threads)


def _config(folder: Path) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder)
