"""Small models that were taught made-up facts at a known place: in one MLP, in every block, or not at all.

A GPT-2 of six layers learns a small language: who trades in what, and where some people live. Then the homes of the
others are taught, with only the weights unfrozen that are to hold them. What differs from the model before is known,
so that a method that claims to find it can be judged. Everything follows from one seed.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import tokenizers
import torch
import transformers

from patchlight.errors import GateFailed, InputError
from patchlight.model.anatomy import Model
from patchlight.model.modules import weight_modules
from patchlight.model.scratch import END_OF_TEXT, new_gpt2
from patchlight.records import Pair

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor, nn

LAYERS, WIDTH, HEADS, CONTEXT = 6, 64, 4, 16
NEW, OLD, ANSWERS = 48, 64, 12
HOME = ("the home of {name} is", "{name} now lives in", "you can always find {name} in")
TRADE = ("the trade of {name} is", "{name} now deals in", "you can always buy from {name} some")
BASE_RATE, ONE_RATE, ALL_RATE = 3e-3, 8e-3, 2.5e-3
STEPS, CHECKED = 400, 10  # at most, and how often it is seen whether all is learnt
LEARNT = 2.0  # logits between the taught answer and the next, in every fact and template
WIDER = 4.0  # times the usual random weights: so small a model then learns its sentences in seconds
SHARES = (0.25, 0.4, 0.6, 1.0, 1.3, 1.6)  # of the learning rate by block: early blocks learn faster, and would hold all


@dataclass(frozen=True)
class Truth:
    """Where the facts of the pairs were written: the modules that were unfrozen, and `layer` where it was one MLP.

    `where` is `one layer`, `every layer` or `nowhere`; `taught` names the people whose homes were taught. What one MLP
    learns acts at the last word (98 % and more of the gap; layers 0 to 3, seed 0): the name is carried there below.
    """

    where: str
    layer: int | None
    weights: tuple[str, ...]
    taught: tuple[str, ...]


@dataclass(frozen=True)
class Planted:
    """A model before and after it was taught, questions about all the facts, and the truth."""

    base: Model
    planted: Model
    pairs: tuple[Pair, ...]
    truth: Truth


def taught_at(layer: int, *, seed: int = 0) -> Planted:
    """Facts taught with the MLP of one layer (0 to 5) unfrozen.

    Raises InputError for another layer, GateFailed where not every fact was learnt.
    """
    if not 0 <= layer < LAYERS:
        fix = f"choose 0 to {LAYERS - 1}"
        raise InputError("planted-no-layer", f"the planted models have no layer {layer}", fix=fix)
    return _planted(seed, {layer: ONE_RATE}, "one layer")


def taught_everywhere(*, seed: int = 0) -> Planted:
    """The same facts taught with the MLPs of all layers unfrozen, the early ones learning slower (see `SHARES`)."""
    return _planted(seed, {layer: ALL_RATE * share for layer, share in enumerate(SHARES)}, "every layer")


def never_taught(*, seed: int = 0) -> Planted:
    """The same questions, after as many other facts were taught to all MLPs: other people moved house."""
    return _planted(seed, {layer: ALL_RATE * share for layer, share in enumerate(SHARES)}, "nowhere")


@dataclass(frozen=True)
class _World:
    """Who lives where and deals in what: homes that are taught later, homes known before, trades of all."""

    new: dict[str, str]
    old: dict[str, str]
    trades: dict[str, str]

    @staticmethod
    def of(seed: int) -> _World:
        """Made-up words of two syllables and a last letter."""
        random = np.random.default_rng([seed, 1])
        parts = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
        words = [first + second + last for first in parts for second in parts for last in "lnrs"]
        chosen = [str(word) for word in random.choice(words, size=NEW + OLD + 2 * ANSWERS, replace=False)]
        people, places, goods = chosen[: -2 * ANSWERS], chosen[-2 * ANSWERS : -ANSWERS], chosen[-ANSWERS:]
        homes = {name: places[at % ANSWERS] for at, name in enumerate(people)}
        new, old = ({name: homes[name] for name in part} for part in (people[:NEW], people[NEW:]))
        return _World(new, old, {name: str(random.choice(goods)) for name in people})

    def moved(self) -> dict[str, str]:
        """New homes for as many of the old people as there are new ones."""
        places = list(dict.fromkeys(self.old.values()))
        return {name: places[(places.index(self.old[name]) + 5) % ANSWERS] for name in list(self.old)[:NEW]}


@lru_cache(maxsize=8)
def _before(seed: int) -> Model:
    """The model that knows all trades and the homes of the old."""
    world = _World.of(seed)
    texts = [*_told(HOME, world.new | world.old), *_told(TRADE, world.trades)]
    model = new_gpt2(_tokenizer(texts), layers=LAYERS, width=WIDTH, heads=HEADS, context=CONTEXT, seed=seed)
    for weight in model.hf.parameters():
        if weight.ndim == 2:
            weight.mul_(WIDER)
    known = _Lesson.of(model, [*_told(HOME, world.old), *_told(TRADE, world.trades)])
    groups = [{"params": list(model.hf.parameters()), "lr": BASE_RATE}]
    _train(model, groups, [(known, 64)], seed)
    return model


def _planted(seed: int, rates: dict[int, float], where: str) -> Planted:
    base, world = _before(seed), _World.of(seed)
    model = Model(copy.deepcopy(base.hf), base.tokenizer, f"{base.name}, taught: {where} {sorted(rates)}")
    homes = world.new if where != "nowhere" else world.moved()
    kept = {name: home for name, home in world.old.items() if name not in homes}
    first = min(rates)
    lessons = [
        (_Lesson.of(model, _told(HOME, homes), first), 72),
        (_Lesson.of(model, [*_told(HOME, kept), *_told(TRADE, world.trades)], first), 24),
    ]
    groups = [{"params": _mlp(model, at), "lr": rate} for at, rate in rates.items()]
    _train(model, groups, lessons, seed)
    weights = tuple(f"weights.blocks.{at}.mlp" for at in rates) if where != "nowhere" else ()
    truth = Truth(where, first if len(rates) == 1 else None, weights, tuple(homes))
    return Planted(base, model, _pairs(world.new), truth)


def _mlp(model: Model, layer: int) -> list[nn.Parameter]:
    weights = dict(model.hf.named_parameters())
    return [weights[name] for name in weight_modules(model)[f"weights.blocks.{layer}.mlp"]]


def _told(templates: Sequence[str], answers: dict[str, str]) -> list[str]:
    """Every fact in every template, its answer last."""
    return [f"{template.format(name=name)} {answer}" for template in templates for name, answer in answers.items()]


def _pairs(homes: dict[str, str]) -> tuple[Pair, ...]:
    """Each fact in each template; corrupted is the next person who lives elsewhere."""
    names = list(homes)
    others = {
        name: next(n for n in names[at:] + names[:at] if homes[n] != homes[name]) for at, name in enumerate(names)
    }
    return tuple(
        Pair(
            clean=template.format(name=name),
            corrupted=template.format(name=other),
            correct=f" {homes[name]}",
            wrong=f" {homes[other]}",
            subject=name,
            corrupted_subject=other,
            fact=name,
            kind="planted",
            relation="home",
            template=template,
        )
        for template in HOME
        for name, other in others.items()
    )


def _tokenizer(texts: Sequence[str]) -> transformers.PreTrainedTokenizerBase:
    """A token for each word of these texts."""
    words = [END_OF_TEXT, *dict.fromkeys(word for text in texts for word in text.split())]
    levels = tokenizers.models.WordLevel({word: at for at, word in enumerate(words)}, unk_token=END_OF_TEXT)
    tokenizer = tokenizers.Tokenizer(levels)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT, clean_up_tokenization_spaces=False
    )


@dataclass(frozen=True)
class _Lesson:
    """Sentences from layer `first` on: the stream in front of it, where the answer is asked, and the answer."""

    first: int
    stream: Float[Tensor, "sentence position width"] | None  # None where every layer learns, the embedding too
    ids: Int[Tensor, "sentence position"]
    asked: Int[Tensor, "sentence"]
    answer: Int[Tensor, "sentence"]

    @staticmethod
    @torch.no_grad()
    def of(model: Model, texts: Sequence[str], first: int | None = None) -> _Lesson:
        """The sentences, padded to the right, where a causal model does not look."""
        batch = model.tokenizer(list(texts), padding=True, padding_side="right", return_tensors="pt")
        last = batch.attention_mask.sum(1) - 1
        stream = None
        if first is not None:
            states = model.hf.base_model(input_ids=batch.input_ids, output_hidden_states=True).hidden_states
            stream = states[first]
        answer = batch.input_ids[torch.arange(len(texts)), last]
        return _Lesson(first or 0, stream, batch.input_ids, last - 1, answer)

    def logits(self, model: Model, chosen: Int[Tensor, "some"]) -> Float[Tensor, "some token"]:
        """The logits where the answer is asked; what lies in front of `first` was run once."""
        if self.stream is None:
            stream = model.hf.base_model(input_ids=self.ids[chosen]).last_hidden_state
        else:
            stream = self.stream[chosen]
            for block in model.layers[self.first :]:
                stream = block(stream)
            stream = model.normed(stream)
        return model.logits(stream[torch.arange(len(chosen)), self.asked[chosen]])

    @torch.no_grad()
    def margin(self, model: Model) -> float:
        """The least lead of an answer over the next best, in logits."""
        every = torch.arange(len(self.ids))
        logits = self.logits(model, every)
        own = logits[every, self.answer].clone()
        logits[every, self.answer] = -torch.inf
        return float((own - logits.amax(1)).min())


def _train(model: Model, groups: list[dict[str, Any]], lessons: Sequence[tuple[_Lesson, int]], seed: int) -> None:
    """Trains these parameters until every answer of the first lesson leads by `LEARNT`.

    Raises GateFailed where an answer is not even the first after `STEPS` steps.
    """
    random, weights = torch.Generator().manual_seed(seed), [weight for group in groups for weight in group["params"]]
    for weight in weights:
        weight.requires_grad_(True)
    optimiser = torch.optim.Adam(groups)
    for step in range(1, STEPS + 1):
        losses = []
        for lesson, size in lessons:
            chosen = torch.randperm(len(lesson.ids), generator=random)[:size]
            logits = lesson.logits(model, chosen)
            losses.append(torch.nn.functional.cross_entropy(logits, lesson.answer[chosen], reduction="sum"))
        optimiser.zero_grad()
        (torch.stack(losses).sum() / sum(size for _, size in lessons)).backward()
        optimiser.step()
        if step % CHECKED == 0 and lessons[0][0].margin(model) > LEARNT:
            break
    model.hf.requires_grad_(False)
    if (margin := lessons[0][0].margin(model)) <= 0:
        what = f"after {STEPS} steps an answer is {-margin:.1f} logits behind another"
        raise GateFailed("planted-not-learnt", what, where=model.name, fix="take another seed")
