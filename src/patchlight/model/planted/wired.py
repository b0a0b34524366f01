"""Hand-built circuits that hold many facts, so that the rule of the verdict can be tried on their activations.

A prompt is `start A B home`; A and B are words of a fact, each of which carries the fact's answer as a code. What
brings the code to the last word, and through how many places, is written by hand: so it is known which places are
enough, which are needed, and what the verdict has to be. Layers, gains and noise in the weights follow from the seed.

Corrupted prompts are another fact's (`exchanged`), or words that carry nothing (`silent`), against which AND and OR can
be told apart: with another fact's words, the loss of one half is half of the gap in both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from patchlight.model.anatomy import Model
from patchlight.model.load import random_init
from patchlight.model.planted.handmade import EPSILON, SHARP, Handmade
from patchlight.records import Pair, Site

ANSWERS = 8  # four for each of two relations: donors that cannot bring the answer need a third one
RELATIONS = ("home", "trade")
OPENINGS = ("start", "begin")  # the two templates
SIZES = (6, 9)  # layers
FACTS = (24, 32)
DRIFTS = (0.0, 0.02, 0.04)  # of noise in every weight but queries and keys; what is written by hand is about 1
LAST_WORD, END = "subject_last", "last"
TAKEN_BACK = 0.1


@dataclass(frozen=True)
class Wired:
    """A circuit with its pairs and the truth.

    `word` is the right verdict. `enough` are the sets of sites, in the names of `Site`, each of which restores
    everything and without which everything is lost, `works` all sites of the circuit: a verdict that names a place has
    to hold a set that is enough and no site that is not of the circuit. `clear` is False where no confident verdict
    would be right.
    """

    name: str
    model: Model
    pairs: tuple[Pair, ...]
    word: str
    enough: tuple[frozenset[str], ...] = ()
    works: frozenset[str] = frozenset()
    clear: bool = True


class _Draft:
    """A circuit under construction, of the sizes that its seed draws; `apart` gives each layer a code of its own."""

    def __init__(self, name: str, seed: int, *, apart: bool = False) -> None:
        self.name, self.random = name, np.random.default_rng([seed, *name.encode()])
        self.layers, self.facts = int(self.random.choice(SIZES)), int(self.random.choice(FACTS))
        self.drift = float(self.random.choice(DRIFTS))
        self.gains = self.random.uniform(3, 8, ANSWERS)
        parts = ["a", "b", "x", "y", "says", *(f"x{layer}_" for layer in range(self.layers if apart else 0))]
        places = [f"{part}{code}" for part in parts for code in range(ANSWERS)]
        words = [f"{part}{fact}_{state}" for part in "ab" for fact in range(self.facts) for state in ("on", "off")]
        answers = [f"{part}{code}" for part in ("right", "none") for code in range(ANSWERS)]
        self.made = Handmade(
            [*OPENINGS, *RELATIONS, *words, *answers],
            [*places, "at_a", "at_b"],
            layers=self.layers,
            heads=2,
            positions=4,
            neurons=2 * ANSWERS,
        )
        self.made.position(1, {"at_a": 1})
        self.made.position(2, {"at_b": 1})

    def draw(self, count: int, first: int = 0) -> list[int]:
        """Different layers in rising order, from `first` on."""
        return sorted(int(each) for each in self.random.choice(range(first, self.layers), count, replace=False))

    def carry(self, layer: int, word: str, read: str, **written: float) -> None:
        """A head that brings a code from the first (`a`) or last (`b`) word of the subject to all that follow."""
        head = "ab".index(word)
        copy = [
            ({f"{read}{code}": 1.0}, {f"{into}{code}": share for into, share in written.items()})
            for code in range(ANSWERS)
        ]
        self.made.head(layer, head, [({"one": SHARP}, {f"at_{word}": 1.0})], copy)

    def neurons(self, layer: int, read: Sequence[str], less: float, written: str, share: float) -> None:
        """For each answer a neuron: the sum of what it reads less a threshold, where positive."""
        for code in range(ANSWERS):
            self.made.neuron(
                layer, {f"{each}{code}": 1.0 for each in read} | {"one": -less}, {f"{written}{code}": share}
            )

    def at_most_one(self, layers: Sequence[int]) -> None:
        """In each of these layers its part of x + y, but no more than 1."""
        for layer in layers:
            self.neurons(layer, ["x", "y"], 0, "says", 1 / len(layers))
            self.neurons(layer, ["x", "y"], 1, "says", -1 / len(layers))

    def finish(
        self,
        word: str,
        *enough: Iterable[str],
        also: Iterable[str] = (),
        silent: bool = False,
        alike: bool = False,
        clear: bool = True,
    ) -> Wired:
        """The circuit; where facts are `alike`, all words carry the one code and all answers read it."""
        for code in range(ANSWERS):
            said, gain = f"says{0 if alike else code}", float(self.gains[code])
            self.made.answer(f"right{code}", {said: gain})
            self.made.answer(f"none{code}", {"one": gain / 2})
        for fact in range(self.facts):
            code = 0 if alike else self.code(fact)
            for part in "ab":
                self.made.word(f"{part}{fact}_on", {f"{part}{code}": 1.0})
        model = self.made.finish(f"planted {self.name} of {self.layers} layers")
        _disturb(model, self.drift, self.random)
        pairs = tuple(self.pair(fact, opening, silent) for opening in OPENINGS for fact in range(self.facts))
        sets = tuple(map(frozenset, enough))
        return Wired(self.name, model, pairs, word, sets, frozenset(also).union(*sets), clear)

    def code(self, fact: int) -> int:
        """The answer of a fact: neighbours in a half and relation have different ones."""
        return fact // 4 % 4 + 4 * (fact % 2)

    def pair(self, fact: int, opening: str, silent: bool) -> Pair:
        """Facts of a half and relation are every fourth; the partner is the next of them."""
        partner = fact if silent else (fact + 4) % self.facts
        state, relation = "off" if silent else "on", RELATIONS[fact % 2]
        clean, corrupted = f"a{fact}_on b{fact}_on", f"a{partner}_{state} b{partner}_{state}"
        return Pair(
            f"{opening} {clean} {relation}",
            f"{opening} {corrupted} {relation}",
            correct=f" right{self.code(fact)}",
            wrong=f" none{self.code(fact)}" if silent else f" right{self.code(partner)}",
            subject=clean,
            corrupted_subject=corrupted,
            fact=f"{self.name}-{fact}",
            kind="planted",
            relation=relation,
            template=opening,
            partner="" if silent else f"{self.name}-{partner}",
            half="discovery" if fact % 4 < 2 else "confirmation",
        )


def attention(layer: int, role: str = END) -> str:
    """The name of a layer's attention output at a role."""
    return str(Site("attn_out", layer, None, role))


def mlp(layer: int, role: str = END) -> str:
    """The name of a layer's MLP output at a role."""
    return str(Site("mlp_out", layer, None, role))


def single(seed: int) -> Wired:
    """One head brings the code to the end: enough, and needed."""
    draft = _Draft("single", seed)
    (layer,) = draft.draw(1)
    draft.carry(layer, "a", "a", says=1)
    return draft.finish("localised", [attention(layer)])


def store(seed: int) -> Wired:
    """An MLP at the subject's last word makes of the word what is said; one head, or all behind it, carry that."""
    draft = _Draft("store", seed)
    written, *readers = draft.draw(2, first=1)
    if draft.random.random() < 0.5:
        readers = list(range(written + 1, draft.layers))
    draft.neurons(written, ["b"], 0, "y", 1)
    for reader in readers:
        draft.carry(reader, "b", "y", says=1 / len(readers))
    return draft.finish("localised", [mlp(written, LAST_WORD)], [attention(reader) for reader in readers])


def chain(seed: int) -> Wired:
    """One head brings the code to the subject's last word, another from there to the end: either place is enough."""
    draft = _Draft("chain", seed)
    first, second = draft.draw(2)
    draft.carry(first, "a", "a", x=1)
    draft.carry(second, "b", "x", says=1)
    return draft.finish("localised", [attention(first, LAST_WORD)], [attention(second)])


def conjunction(seed: int) -> Wired:
    """AND: two heads, neither of which does anything alone; what both agree on is said by one MLP or several."""
    draft, heads, gates = _two_heads("and", seed, "ab")
    for gate in gates:
        draft.neurons(gate, ["x", "y"], 1, "says", 1 / len(gates))
    return draft.finish("localised", map(attention, heads), map(mlp, gates), silent=True)


def disjunction(seed: int) -> Wired:
    """OR: two heads, each of which is enough; only the loss of both is a loss."""
    draft, heads, gates = _two_heads("or", seed, "ab")
    draft.at_most_one(gates)
    return draft.finish("localised", map(attention, heads), map(mlp, gates), silent=True)


def redundant(seed: int) -> Wired:
    """As OR, but both heads read the one word."""
    draft, heads, gates = _two_heads("redundant", seed, "aa")
    draft.at_most_one(gates)
    return draft.finish("localised", map(attention, heads), map(mlp, gates), silent=True)


def cancelling(seed: int) -> Wired:
    """One head says twice the code and an MLP takes it back; another head says it once: that one counts."""
    draft = _Draft("cancelling", seed)
    loud, counts = draft.random.permutation(draft.draw(2)).tolist()
    back = int(draft.random.integers(loud, draft.layers))
    draft.carry(loud, "a", "a", says=2, x=1)
    draft.neurons(back, ["x"], 0, "says", -2)
    draft.carry(counts, "b", "b", says=1)
    return draft.finish("localised", [attention(counts)], also=[attention(loud), mlp(back)])


def spread(seed: int) -> Wired:
    """In every layer a head brings the code and that layer's MLP says its part: the MLPs together, none much alone.

    Each head takes a little of it back, so that the MLPs are the stronger. Were the code said by the heads themselves,
    a model with random weights would look the same: all attention outputs at the last word restore everything in any.
    """
    draft = _Draft("spread", seed, apart=True)
    for layer in range(draft.layers):
        draft.carry(layer, "a", "a", **{f"x{layer}_": 1, "says": -TAKEN_BACK / draft.layers})
        draft.neurons(layer, [f"x{layer}_"], 0, "says", (1 + TAKEN_BACK) / draft.layers)
    return draft.finish("distributed")


def nothing(seed: int) -> Wired:
    """Nothing is written: no answer is known."""
    return _Draft("nothing", seed).finish("no knowledge to localise")


def alike(seed: int) -> Wired:
    """One head brings the same code for every fact: what acts there is no one fact's, any other fact gives it too."""
    draft = _Draft("alike", seed)
    (layer,) = draft.draw(1)
    draft.carry(layer, "a", "a", says=1)
    return draft.finish("undetermined", silent=True, alike=True, clear=False)


def saturated(seed: int) -> Wired:
    """A head in every layer, each of which is enough: the loss of all is a cut by construction, so nothing is told."""
    draft = _Draft("saturated", seed)
    for layer in range(draft.layers):
        draft.carry(layer, "a", "a", x=1)
    draft.at_most_one(range(draft.layers))
    return draft.finish("undetermined", silent=True, clear=False)


WIRED: dict[str, Callable[[int], Wired]] = {
    "single": single,
    "store": store,
    "chain": chain,
    "and": conjunction,
    "or": disjunction,
    "redundant": redundant,
    "cancelling": cancelling,
    "spread": spread,
    "nothing": nothing,
    "alike": alike,
    "saturated": saturated,
}


def _two_heads(name: str, seed: int, words: str) -> tuple[_Draft, list[int], list[int]]:
    """A draft with two heads that bring codes `x` and `y` to the end, their layers, and those of one to three MLPs."""
    draft = _Draft(name, seed)
    heads = draft.draw(2)
    for layer, word, into in zip(heads, words, "xy", strict=True):
        draft.carry(layer, word, word, **{into: 1})
    room = draft.layers - heads[1]
    return draft, heads, draft.draw(int(draft.random.integers(1, min(room, 3) + 1)), first=heads[1])


@torch.no_grad()
def _disturb(model: Model, drift: float, random: np.random.Generator) -> None:
    """Noise in every weight of words, values, outputs and MLPs."""
    width, inner = model.hf.config.n_embd, model.hf.transformer
    weights = [inner.wte.weight]
    for block in inner.h:
        weights += [block.attn.c_attn.weight[:, 2 * width :], block.attn.c_proj.weight]
        weights += [block.mlp.c_fc.weight, block.mlp.c_proj.weight]
    for weight in weights:
        weight.add_(torch.from_numpy(random.normal(0, drift, tuple(weight.shape))))


def unwired(like: Model, seed: int) -> Model:
    """The same architecture with random weights, its norms made harmless in the same way."""
    model = random_init(like, seed)
    for name, weight in model.hf.named_parameters():
        if "ln_" in name and name.endswith("weight"):
            weight.fill_(EPSILON**0.5)
    return model
