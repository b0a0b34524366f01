"""Time: what a patch does to each token of an answer of several, in the prompt or where the answer is being given.

The right answer is teacher-forced behind both prompts, so that every run reads the same words of it. The measure is
the log-probability of each of its tokens; over the tokens they add up to the metric `logprob` of a sweep.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from patchlight.pairs.align import Alignment, align
from patchlight.pairs.answers import ROWS_AT_ONCE
from patchlight.records import Pair, TokenPair
from patchlight.trace.cells import Sites, columns_of, places_of, rows_of, sites_of
from patchlight.trace.corruptions import TOKEN
from patchlight.trace.cuts import restoring
from patchlight.trace.metrics import FLOORS
from patchlight.trace.rows import Rows
from patchlight.trace.sweep import MEMORY, Measured, Settings, Work, measured, work_on

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from patchlight.model.anatomy import Model

METRIC = "logprob"
GIVEN = "answer_"  # the place of an answer's token, numbered from 1, once it is given


@dataclass(frozen=True)
class StepEffects:
    """The log-probability of each token of the right answer after each patch: `values[pair, layer, place, step]`, nats.

    Heads come behind the layer. `places` are the roles of the prompt, all tokens of a role together, then the tokens
    of the answer that are given already (`answer_1` is read before the second is chosen). NaN where a pair has no such
    place or step, and where the token was chosen before the place was there. `clean` and `corrupted[pair, step]` are
    without a patch. `structural`, of the shape of `values`, marks what restores a token by construction (guard 2).
    """

    values: Float[np.ndarray, "pair layer *head place step"]
    clean: Float[np.ndarray, "pair step"]
    corrupted: Float[np.ndarray, "pair step"]
    structural: Bool[np.ndarray, "pair layer *head place step"]
    places: tuple[str, ...]
    pairs: tuple[Pair | TokenPair, ...]
    alignments: tuple[Alignment, ...]
    component: str
    direction: str

    @property
    def gaps(self) -> Float[np.ndarray, "pair"]:
        """The gap of each pair over its whole answer, in nats."""
        gaps: np.ndarray = np.nansum(self.clean - self.corrupted, axis=1)
        return gaps

    def moved(self) -> Float[np.ndarray, "pair layer *head place step"]:
        """What each patch moves of each token: towards the clean run (denoise) or away from it (noise), in nats."""
        base = (self.corrupted if self.direction == "denoise" else self.clean)[:, None, None, :]
        sign = 1 if self.direction == "denoise" else -1
        moved: np.ndarray = sign * (self.values - (base[:, None] if self.values.ndim == 5 else base))
        return moved

    def recovery(self, floor: float = FLOORS[METRIC]) -> Float[np.ndarray, "pair layer *head place step"]:
        """The part of the whole answer's gap that each patch moves at each token: over the tokens they add up.

        NaN for a pair whose gap is under `floor` nats.
        """
        gaps = np.where(self.gaps >= floor, self.gaps, np.nan)
        share: np.ndarray = self.moved() / gaps.reshape(-1, *[1] * (self.values.ndim - 1))
        return share


def sweep_steps(
    model: Model,
    pairs: Sequence[Pair | TokenPair],
    *,
    component: str = "resid_post",
    direction: str = "denoise",
    on_progress: Callable[[int, int], None] | None = None,
    memory: int = MEMORY,
) -> StepEffects:
    """What replacing `component` in each layer and place does to each token of the right answer, teacher-forced.

    Other settings are those of `sweep`. Raises InputError as `sweep` does.
    """
    alignments = tuple(align(model.tokenizer, pair) for pair in pairs)
    cells = _Moments(sites_of(model, component, 1, None), _places(alignments))
    settings = Settings(direction, (METRIC,), TOKEN, "exact", memory)
    usual = work_on(model, pairs, cells, settings)
    work = _StepWork(model, usual.alignments, None, cells, settings, None)
    steps = max((len(alignment.correct_ids) for alignment in alignments), default=0)
    values = np.full((len(pairs), *cells.shape(alignments), steps), np.nan)
    runs = np.full((2, len(pairs), steps), np.nan)
    for batch, found in measured(work, on_progress):
        values[batch, ..., : found.values[METRIC].shape[-1]] = found.values[METRIC]
        runs[:, batch, : found.clean[METRIC].shape[-1]] = found.clean[METRIC], found.corrupted[METRIC]
    marked = np.zeros(values.shape, dtype=bool)
    for pair, alignment in enumerate(alignments):
        for step in range(len(alignment.correct_ids)):
            marked[pair, ..., step] = _structural(model, alignment, cells, step)
    return StepEffects(values, runs[0], runs[1], marked, cells.places, tuple(pairs), alignments, component, direction)


def _places(alignments: Sequence[Alignment]) -> tuple[str, ...]:
    longest = max((len(alignment.correct_ids) for alignment in alignments), default=1)
    return (*columns_of(alignments, "roles"), *(f"{GIVEN}{number}" for number in range(1, longest)))


@dataclass(frozen=True)
class _Moments:
    """Cells that are a component's layers (and heads) at the roles of the prompt and the tokens given so far."""

    sites: Sites
    places: tuple[str, ...]

    @property
    def components(self) -> frozenset[str]:
        return frozenset((self.sites.component,))

    def rows(self, alignments: Sequence[Alignment]) -> Rows:
        return rows_of(self.sites, torch.tensor(np.array([self.positions(each) for each in alignments])))

    def shape(self, _: Sequence[Alignment]) -> tuple[int, ...]:
        return (*self.sites.axes, len(self.places))

    def absent(self, alignments: Sequence[Alignment]) -> Bool[np.ndarray, "pair ..."]:
        lacking = np.array([~self.positions(each).any(axis=-1) for each in alignments])
        return lacking.reshape(len(alignments), *[1] * len(self.sites.axes), -1)

    def patches(self, alignment: Alignment) -> int:
        return int(np.prod(self.sites.axes)) * (len(alignment.clean_ids) + len(alignment.correct_ids))

    def positions(self, alignment: Alignment) -> Bool[np.ndarray, "place position"]:
        """The positions of each place, in the prompt and what is given of the answer behind it."""
        roles = tuple(place for place in self.places if not place.startswith(GIVEN))
        prompt, given = len(alignment.clean_ids), len(alignment.correct_ids) - 1
        found = np.zeros((len(self.places), prompt + given), dtype=bool)
        found[: len(roles), :prompt] = places_of(alignment, roles)
        found[len(roles) : len(roles) + given, prompt:] = np.eye(given, dtype=bool)
        return found


@dataclass(frozen=True)
class _StepWork(Work):
    """One run of each prompt with the right answer behind it, read before every token of the answer."""

    cells: _Moments

    def _measure(self, batch: Sequence[int], draw: int, advance: Callable[[int], None]) -> Measured:
        chosen = [self.alignments[index] for index in batch]
        tokens, rows = torch.tensor([each.correct_ids for each in chosen]), self.cells.rows(chosen)
        recipient, donor, _ = self._runs(batch, tokens[:, :-1], draw)
        patched = self._patched(batch, recipient, donor, rows, advance)
        values = _logprobs(self.model, patched, tokens[rows.pair])
        given, received = (_logprobs(self.model, run.final, tokens) for run in (donor, recipient))
        clean, corrupted = (given, received) if self.settings.direction == "denoise" else (received, given)
        shaped = values.reshape(len(batch), *self.cells.shape(chosen), -1)
        late = np.array([_chosen_before(place, shaped.shape[-1]) for place in self.cells.places])
        absent = self.cells.absent(chosen)[..., None] | late
        return Measured({METRIC: np.where(absent, np.nan, shaped)}, {METRIC: clean}, {METRIC: corrupted})


def _chosen_before(place: str, steps: int) -> Bool[np.ndarray, "step"]:
    """The tokens of an answer that are chosen before a place is there."""
    begun = int(place.removeprefix(GIVEN)) if place.startswith(GIVEN) else 0
    return np.arange(steps) < begun


@torch.inference_mode()
def _logprobs(
    model: Model, runs: Float[Tensor, "row step width"], tokens: Int[Tensor, "row step"]
) -> Float[np.ndarray, "row step"]:
    """The log-probability of each token where it is read."""
    exact, found = torch.promote_types(model.dtype, torch.float32), []
    for normed, wanted in zip(runs.split(ROWS_AT_ONCE), tokens.split(ROWS_AT_ONCE), strict=True):
        every = [model.logits(step).to(exact).log_softmax(-1) for step in normed.unbind(1)]
        found.append(torch.stack(every, dim=1).gather(2, wanted[..., None].to(every[0].device))[..., 0])
    values: np.ndarray = torch.cat(found).double().cpu().numpy()
    return values


def _structural(
    model: Model, alignment: Alignment, cells: _Moments, step: int
) -> Bool[np.ndarray, "layer *head place"]:
    """Where a patch cuts every way from the tokens that differ to where one token of the answer is read."""
    length, heads = len(alignment.clean_ids) + step, (model.n_heads, model.n_kv_heads)
    rows = rows_of(cells.sites, torch.tensor(cells.positions(alignment)[None, :, :length]))
    restored: np.ndarray = restoring(rows, alignment.differing, length, model.n_layers, heads)
    return restored.reshape(cells.shape([alignment]))
