"""A model built by hand in which one direction really carries the answer, and another only seems to.

The prompt is `start A then`; A says on or off. In the hidden layer of the first MLP, at A, three neurons are active:
`genuine` follows A and writes to the answer; `unread` follows A and writes nothing; `quiet` is always 1 and writes to
the answer. A patch along unread + quiet moves `quiet`, which A never moves by itself: a dormant path [Makelov et al.].
"""

from __future__ import annotations

import torch

from patchlight.model.anatomy import Model
from patchlight.model.planted.handmade import SHARP, Handmade
from patchlight.records import Pair

FACTS = 6
NEURONS = 3
SITE = "blocks.0.mlp_hidden@1"
GENUINE, UNREAD, QUIET = range(NEURONS)


def dormant() -> tuple[Model, tuple[Pair, ...]]:
    """The model and its pairs; every gap is 2 logits."""
    facts = [f"a{fact}_{state}" for fact in range(FACTS) for state in ("on", "off")]
    answers = [f"{answer}{fact}" for answer in ("right", "wrong") for fact in range(FACTS)]
    dimensions = ("a", "at_a", "middle", "aside", "output")
    made = Handmade(["start", "then", *facts, *answers], dimensions, layers=2, heads=1, positions=3, neurons=NEURONS)
    made.position(1, {"at_a": 1})
    for fact in range(FACTS):
        made.word(f"a{fact}_on", {"a": 1})
        made.answer(f"right{fact}", {"output": 2, "one": -3})  # 2 (genuine + quiet) - 3: 1 if on, -1 if off
    made.neuron(0, {"a": 1}, {"middle": 1})
    made.neuron(0, {"a": 1}, {})
    made.neuron(0, {"at_a": 1}, {"aside": 1})
    made.head(1, 0, [({"one": SHARP}, {"at_a": 1})], [({from_: 1}, {"output": 1}) for from_ in ("middle", "aside")])
    pairs = tuple(
        Pair(f"start a{n}_on then", f"start a{n}_off then", f" right{n}", f" wrong{n}", fact=f"a{n}", kind="planted")
        for n in range(FACTS)
    )
    return made.finish("planted dormant path"), pairs


def direction(*neurons: int) -> torch.Tensor:
    """The unit direction `[1, neuron]` along these neurons together."""
    vector = torch.zeros(1, NEURONS, dtype=torch.float64)
    vector[0, list(neurons)] = len(neurons) ** -0.5
    return vector
