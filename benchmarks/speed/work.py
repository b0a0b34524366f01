"""The work that every peer gets: which activations to replace, one at a time, in which pairs of prompts."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from typing import NamedTuple

WORKLOADS = {
    "W1": "residual stream, layer x position",
    "W2": "attention and MLP outputs, layer x position",
    "W3": "each head's output, all positions at once",
}
MEASURED_POSITIONS = 16  # in a layer, of a peer that runs a whole forward a place


class Place(NamedTuple):
    """One replacement; `head` None stands for the whole component, `position` None for every position."""

    component: str
    layer: int
    head: int | None = None
    position: int | None = None


@dataclass(frozen=True)
class Prompts:
    """Token ids: `donor[pair][position]` gives, `recipient[pair][position]` receives, `answers[pair]` are the two."""

    donor: list[list[int]]
    recipient: list[list[int]]
    answers: list[list[int]]

    def first(self) -> Prompts:
        """The first pair alone."""
        return Prompts(self.donor[:1], self.recipient[:1], self.answers[:1])

    def reversed(self) -> Prompts:
        """The other direction: noising instead of denoising."""
        return Prompts(self.recipient, self.donor, self.answers)


def random_prompts(pairs: int, tokens: int, differing: Sequence[int], vocabulary: int, seed: int = 1) -> Prompts:
    """Pairs of random token ids that differ at exactly the positions `differing`."""
    draw = random.Random(seed)
    donor = [draw.choices(range(vocabulary), k=tokens) for _ in range(pairs)]
    recipient = [
        [_another(draw, token, vocabulary) if at in differing else token for at, token in enumerate(row)]
        for row in donor
    ]
    return Prompts(donor, recipient, [draw.sample(range(vocabulary), 2) for _ in range(pairs)])


def places(workload: str, layers: int, heads: int, tokens: int) -> list[Place]:
    """Every place of a workload, component by component, layer by layer."""
    if workload == "W3":
        return [Place("head_out", layer, head) for layer, head in product(range(layers), range(heads))]
    components = {"W1": ("resid_pre",), "W2": ("attn_out", "mlp_out")}[workload]
    grid = product(components, range(layers), range(tokens))
    return [Place(component, layer, None, position) for component, layer, position in grid]


def measured_part(every: Sequence[Place], layers: int, tokens: int) -> list[Place]:
    """The places that stand for all where each costs a whole forward: two layers, at most sixteen positions in each."""
    some_layers = {layers // 4, 3 * layers // 4}
    count = min(tokens, MEASURED_POSITIONS)
    positions = {None, *(index * tokens // count for index in range(count))}
    return [place for place in every if place.layer in some_layers and place.position in positions]


def together(some: Sequence[Place], at_most: int) -> Iterator[list[Place]]:
    """Groups of places of one component and layer, for one batched forward each."""
    for _, same in groupby(some, key=lambda place: (place.component, place.layer)):
        group = list(same)
        yield from (group[start : start + at_most] for start in range(0, len(group), at_most))


def _another(draw: random.Random, token: int, vocabulary: int) -> int:
    return (token + draw.randrange(1, vocabulary)) % vocabulary
