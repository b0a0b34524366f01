"""Sweeps: one component replaced at every layer and position (and head), one site at a time, over many pairs."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from patchlight.errors import InputError
from patchlight.pairs.align import Alignment, align, encode, mean_by_role
from patchlight.records import Pair
from patchlight.trace import metrics
from patchlight.trace.capture import Run, capture
from patchlight.trace.corruptions import Corruption, Replaced, as_corrupted, as_corruption, embeddings, replaced
from patchlight.trace.engine import needed, replay
from patchlight.trace.rows import COMPONENTS, HEADED, UNLAYERED, Rows

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Float
    from torch import Tensor

    from patchlight.model.anatomy import Model

MEMORY = 1 << 30  # bytes for captured runs and the state of a pass, beside the model
DIRECTIONS = ("denoise", "noise")


@dataclass(frozen=True)
class Effects:
    """The metric after each single patch: `values[pair, layer, position]`, with heads `[pair, layer, head, position]`.

    NaN where a shorter prompt has no position. `clean` and `corrupted` are the metric without a patch, per pair.
    """

    values: Float[np.ndarray, "pair layer *head position"]
    clean: Float[np.ndarray, "pair"]
    corrupted: Float[np.ndarray, "pair"]
    pairs: tuple[Pair, ...]
    alignments: tuple[Alignment, ...]
    component: str
    direction: str
    metric: str
    corruption: Corruption = Corruption()

    def recovery(self, floor: float = metrics.FLOOR) -> Float[np.ndarray, "pair layer *head position"]:
        """The share of the gap brought back (denoise) or taken away (noise); NaN where the gap is under `floor`."""
        share = metrics.recovery if self.direction == "denoise" else metrics.damage
        return share(self.values, self.clean, self.corrupted, floor)

    def plot(self, pair: int | None = None) -> Any:
        """A drawing for a notebook: words as columns for one pair, roles for several; `.save(path)` writes an SVG."""
        # The report's renderer, found by name: a stage does not import the rooms to its right.
        return importlib.import_module("patchlight.report.notebook").draw_effects(self, pair)

    def by_role(self) -> tuple[tuple[str, ...], Float[np.ndarray, "pair layer *head role"]]:
        """The roles that occur, and the mean value over the positions of each role (NaN where a pair has none)."""
        return mean_by_role(self.values, [alignment.roles for alignment in self.alignments])

    def to_frame(self) -> pd.DataFrame:
        """A tidy table, one line a cell: pair, fact, kind, layer, head, position, role, token, value, recovery."""
        import pandas as pd

        cells = np.argwhere(~np.isnan(self.values))
        pair, position = cells[:, 0], cells[:, -1]
        words = np.array([(*a.words, *[""] * (self.values.shape[-1] - len(a.words))) for a in self.alignments])
        roles = np.array([(*a.roles, *[""] * (self.values.shape[-1] - len(a.roles))) for a in self.alignments])
        columns = {
            "pair": pair,
            "fact": np.array([p.fact for p in self.pairs])[pair],
            "kind": np.array([p.kind for p in self.pairs])[pair],
            "layer": cells[:, 1],
            "head": cells[:, 2] if self.values.ndim == 4 else None,
            "position": position,
            "role": roles[pair, position],
            "token": words[pair, position],
            "value": self.values[tuple(cells.T)],
            "recovery": self.recovery()[tuple(cells.T)],
        }
        return pd.DataFrame({name: column for name, column in columns.items() if column is not None})


def sweep(
    model: Model,
    pairs: Sequence[Pair],
    *,
    component: str = "resid_pre",
    direction: str = "denoise",
    metric: str = "logit_diff",
    corruption: str | Corruption = "token",
    donors: Sequence[str] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    memory: int = MEMORY,
) -> Effects:
    """The metric after replacing `component` at each layer and position (and head) of each pair, one at a time.

    Denoising puts what the clean run has into the corrupted run, noising the reverse. `donors`, a prompt for each pair
    of equal length in tokens, replaces the run that gives (a control). `on_progress` gets the cells done and all cells.
    `memory` in bytes bounds what is held beside the model; the values do not depend on it beyond rounding. Raises
    InputError for a pair that does not align, a component that the model does not have, and a donor of another length.
    """
    if direction not in DIRECTIONS:
        fix = f"choose one of: {', '.join(DIRECTIONS)}"
        raise InputError("trace-unknown-direction", f"no direction {direction!r}", fix=fix)
    _check_component(model, component)
    corruption = as_corruption(corruption)
    alignments = tuple(align(model.tokenizer, pair) for pair in pairs)
    subjects = None if corruption.kind == "token" else replaced(model, alignments, corruption)
    alignments = tuple(as_corrupted(alignment, corruption) for alignment in alignments)
    donor_ids = _donor_ids(model, alignments, donors)
    work = _Work(model, alignments, donor_ids, component, direction, metric, memory, corruption, subjects)
    lengths = [len(alignment.clean_ids) for alignment in alignments]
    axes = (
        1 if component in UNLAYERED else model.n_layers,
        *([_units(model, component)] if component in HEADED else []),
    )
    values = np.full((len(pairs), *axes, max(lengths, default=0)), np.nan)
    clean, corrupted = np.full((2, len(pairs)), np.nan)
    total, done = sum(lengths) * int(np.prod(axes)), 0
    for group in _batches(work, lengths):
        length = lengths[group[0]]

        def advance(cells: int, before: int = done) -> None:
            if on_progress:
                on_progress(before + cells, total)

        drawn = [work.measure(group, draw, advance) for draw in range(corruption.samples)]
        measured = [np.mean(parts, axis=0) for parts in zip(*drawn, strict=True)]
        values[group, ..., :length], clean[group], corrupted[group] = measured
        done += len(group) * length * int(np.prod(axes))
        if on_progress:
            on_progress(done, total)
    return Effects(values, clean, corrupted, tuple(pairs), alignments, component, direction, metric, corruption)


def sweeps(
    model: Model, pairs: Sequence[Pair], *, metrics: Sequence[str] = ("logit_diff",), **rest: Any
) -> dict[str, Effects]:
    return {metric: sweep(model, pairs, metric=metric, **rest) for metric in metrics}


@dataclass(frozen=True)
class _Work:
    """One sweep's settings, and the measurement of a group of pairs of one length."""

    model: Model
    alignments: tuple[Alignment, ...]
    donors: tuple[tuple[int, ...], ...] | None
    component: str
    direction: str
    metric: str
    memory: int
    corruption: Corruption
    subjects: tuple[Replaced, ...] | None

    def measure(
        self, group: Sequence[int], draw: int, advance: Callable[[int], None]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Values `[pair, layer, (head,) position]`, and the clean and corrupted metric of each pair of the group."""
        chosen = [self.alignments[index] for index in group]
        clean = torch.tensor([alignment.clean_ids for alignment in chosen])
        corrupted = torch.tensor([alignment.corrupted_ids for alignment in chosen])
        answers = torch.tensor([(alignment.correct_id, alignment.wrong_id) for alignment in chosen])
        given, received = (clean, corrupted) if self.direction == "denoise" else (corrupted, clean)
        of_recipient, of_donor = needed(self.component, self.model)
        embedded = self._embedded(group, draw, corrupted)
        of_given, of_received = (None, embedded) if self.direction == "denoise" else (embedded, None)
        recipient = capture(self.model, received, of_recipient, embed=of_received)
        usual = capture(self.model, given, of_donor if self.donors is None else (), embed=of_given)
        donor = usual
        if self.donors is not None:
            donor = capture(self.model, torch.tensor([self.donors[index] for index in group]), of_donor)
        unpatched = [self._metric(run, answers) for run in (usual, recipient)]
        differs = recipient.ids != donor.ids
        for row, alignment in enumerate(chosen):
            differs[row, list(alignment.differing)] = True
        values = self._values(recipient, donor, differs, answers, advance)
        both = unpatched if self.direction == "denoise" else unpatched[::-1]
        return values, both[0].double().numpy(), both[1].double().numpy()

    def _embedded(self, group: Sequence[int], draw: int, ids: Tensor) -> Tensor | None:
        """What the corrupted runs start from; None where their own tokens do."""
        if self.subjects is None:
            return None
        subjects = [self.subjects[index] for index in group]
        return embeddings(
            self.model, ids, [each.positions for each in subjects], [each.vectors[draw] for each in subjects]
        )

    def _values(
        self, recipient: Run, donor: Run, differs: Tensor, answers: Tensor, advance: Callable[[int], None]
    ) -> np.ndarray:
        count, length = recipient.ids.shape
        if self.component in ("final_norm", "logits"):
            # Nothing runs behind these: at the last position the metric is the donor's, elsewhere they are not read.
            values = self._metric(recipient, answers)[:, None, None].repeat(1, 1, length)
            values[:, 0, -1] = self._metric(donor, answers)
            return values.double().numpy()
        layers = 1 if self.component == "embed" else self.model.n_layers
        units = _units(self.model, self.component) if self.component in HEADED else 0
        rows = every_site(self.component, count, layers, units, length)
        done = 0

        def on_pass(cells: int) -> None:
            nonlocal done
            done += cells
            advance(done)

        normed = replay(self.model, recipient, donor, rows, memory=self.memory // 2, differs=differs, on_pass=on_pass)
        values = metrics.measure(self.model, self.metric, normed[:, -1], answers[rows.pair].to(self.model.device))
        if not bool(torch.isfinite(values).all()):
            what = "a patched run gave values that are not finite"
            raise InputError("trace-not-finite", what, where=self.model.name, fix="try dtype float32")
        shape = (count, layers, *([units] if units else []), length)
        return values.double().cpu().numpy().reshape(shape)

    def _metric(self, run: Run, answers: Tensor) -> Tensor:
        return metrics.measure(self.model, self.metric, run.final[:, -1], answers.to(self.model.device)).cpu()


def every_site(component: str, pairs: int, layers: int, units: int, length: int) -> Rows:
    """A row for each pair, layer, unit (where `units` is not 0) and position, in this order."""
    grid = torch.cartesian_prod(*[torch.arange(size) for size in (pairs, layers, max(units, 1), length)])
    pair, layer, unit, position = grid.T
    kind = torch.full_like(pair, COMPONENTS.index(component))
    return Rows.at(pair, torch.stack([torch.arange(len(pair)), kind, layer, unit if units else unit - 1, position]))


def _units(model: Model, component: str) -> int:
    return model.n_kv_heads if component in ("k", "v") else model.n_heads


def _check_component(model: Model, component: str) -> None:
    if component not in COMPONENTS:
        fix = f"choose one of: {', '.join(COMPONENTS)}"
        raise InputError("trace-unknown-component", f"no component {component!r}", fix=fix)
    if component == "resid_mid" and model.parallel:
        what = "attention and MLP of this model read the same input, so that there is no resid_mid"
        raise InputError("model-no-component", what, where=model.name, fix="choose another component")
    if component in ("q", "k", "v", "pattern") and not model.family.interface:
        what = (
            f"the attention of models of type {model.config.model_type} cannot be reached, so that {component} cannot"
        )
        raise InputError("model-no-component", what, where=model.name, fix="choose head_out or attn_out")
    if component == "mlp_hidden":
        model.part("mlp_proj", 0)


def _donor_ids(
    model: Model, alignments: Sequence[Alignment], donors: Sequence[str] | None
) -> tuple[tuple[int, ...], ...] | None:
    if donors is None:
        return None
    ids = tuple(tuple(encode(model.tokenizer, prompt)) for prompt in donors)
    lengths = [len(row) for row in ids]
    if lengths != [len(alignment.clean_ids) for alignment in alignments]:
        what = f"donors of {lengths} tokens for pairs of {[len(a.clean_ids) for a in alignments]}"
        raise InputError("trace-donor-length", what, fix="give one donor a pair, of the same length in tokens")
    return ids


def _batches(work: _Work, lengths: Sequence[int]) -> Iterator[list[int]]:
    """Pairs of one length, as many at once as half of the memory holds: captured runs, and a result for each row."""
    model = work.model
    units = _units(model, work.component) if work.component in HEADED else 1
    component = {"mlp_hidden": 4 * model.width, "pattern": model.n_heads * max(lengths, default=0)}
    streams = model.width * (2 + units) + 2 * model.n_kv_heads * model.head_dim
    per_token = model.n_layers * (streams + component.get(work.component, model.width)) * model.dtype.itemsize
    for length in sorted(set(lengths)):
        group = [index for index, value in enumerate(lengths) if value == length]
        size = max(1, work.memory // 2 // (per_token * length))
        for start in range(0, len(group), size):
            yield group[start : start + size]
