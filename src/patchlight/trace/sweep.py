"""Sweeps: one component replaced at every layer and position (and head), one site at a time, over many pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from patchlight.errors import BudgetExceeded, InputError
from patchlight.pairs.align import Alignment, align, encode
from patchlight.pairs.answers import Answers, read, refuse_unreadable, require_metrics, shape
from patchlight.records import Pair, TokenPair
from patchlight.trace.capture import Run, capture
from patchlight.trace.cells import POSITIONS, Cells, Grid, columns_of, require_known, sites_of
from patchlight.trace.corruptions import Corruption, Replaced, as_corrupted, as_corruption, embeddings, replaced
from patchlight.trace.effects import Effects
from patchlight.trace.engine import replay
from patchlight.trace.kernels import check_products, faster
from patchlight.trace.plan import needed
from patchlight.trace.random_donor import RandomDonor, refuse_unpushable
from patchlight.trace.rows import Rows

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from patchlight.model.anatomy import Model

MEMORY = 1 << 30  # bytes for captured runs, the state of a pass and what metrics need, beside the model
HALVINGS = 3  # of the memory, where the machine has less
DIRECTIONS = ("denoise", "noise")
BEHIND = {"final_norm", "logits"}  # nothing runs behind them
FORWARD = 16  # streams that a forward holds while it runs, in the hidden layer of its MLP above all
ROW_BYTES = 6 * 8 * 4  # of a replaced activation in the tables of rows, and their copies while rows are cut


def sweep(
    model: Model,
    pairs: Sequence[Pair | TokenPair],
    *,
    component: str = "resid_pre",
    direction: str = "denoise",
    metric: str = "logit_diff",
    positions: str = "each",
    window: int = 1,
    groups: int | None = None,
    corruption: str | Corruption = "token",
    donors: Sequence[str | Sequence[int]] | RandomDonor | None = None,
    products: str = "exact",
    on_progress: Callable[[int, int], None] | None = None,
    memory: int = MEMORY,
) -> Effects:
    """The effects under one metric; see `sweeps`."""
    return sweeps(
        model,
        pairs,
        metrics=(metric,),
        component=component,
        direction=direction,
        positions=positions,
        window=window,
        groups=groups,
        corruption=corruption,
        donors=donors,
        products=products,
        on_progress=on_progress,
        memory=memory,
    )[metric]


def sweeps(
    model: Model,
    pairs: Sequence[Pair | TokenPair],
    *,
    metrics: Sequence[str] = ("logit_diff",),
    component: str = "resid_pre",
    direction: str = "denoise",
    positions: str = "each",
    window: int = 1,
    groups: int | None = None,
    corruption: str | Corruption = "token",
    donors: Sequence[str | Sequence[int]] | RandomDonor | None = None,
    products: str = "exact",
    on_progress: Callable[[int, int], None] | None = None,
    memory: int = MEMORY,
) -> dict[str, Effects]:
    """For each metric, its value after replacing `component` at each layer and position (and head), one at a time.

    All metrics are read off the same patched runs. Denoising puts what the clean run has into the corrupted run,
    noising the reverse. Only positions of the prompt are patched; answers of several tokens follow it, teacher-forced.

    `positions`: "each" by itself, "all" together, or "roles": all positions of a role together. `window` layers are
    patched together (layer l means l to l + window - 1), to be read beside the sum of single layers. `groups` cuts
    the hidden neurons of `mlp_hidden` into so many equal groups. `corruption` says how corrupted runs are made (see
    `Corruption`; a word stands for its usual settings); the metric is the mean over its draws. `donors`, a prompt (or
    its token ids) for each pair of equal length in tokens, replaces the run that gives (a control); a `RandomDonor`
    gives as large a change in a random direction. `products` of `bfloat16` are coarse: never quote them.

    `on_progress` gets the cells done and all cells (more where both answers or several draws have to be run).
    `memory` in bytes bounds what is held beside the model; the values do not depend on it beyond rounding. Where the
    machine has less, half of it is tried, three times at most.

    Raises InputError for a pair that does not align or cannot be corrupted so or that a metric cannot tell apart, a
    setting that is not there, a donor of another length and values that are not finite; BudgetExceeded where memory
    runs out.
    """
    require_known("positions", positions, POSITIONS)
    alignments = tuple(align(model.tokenizer, pair) for pair in pairs)
    cells = Grid(sites_of(model, component, window, groups), columns_of(alignments, positions))
    settings = Settings(direction, tuple(metrics), as_corruption(corruption), products, memory)
    work = work_on(model, pairs, cells, settings, donors)
    return effects_of(work, cells, tuple(pairs), measured(work, on_progress))


@dataclass(frozen=True)
class Settings:
    """How cells are measured, whichever they are; see `sweeps`."""

    direction: str
    metrics: tuple[str, ...]
    corruption: Corruption
    products: str
    memory: int


def work_on(
    model: Model,
    pairs: Sequence[Pair | TokenPair],
    cells: Cells,
    settings: Settings,
    donors: Sequence[str | Sequence[int]] | RandomDonor | None = None,
) -> Work:
    """What `measured` takes, all settings checked. Raises InputError as `sweeps` does."""
    require_metrics(settings.metrics)
    require_known("direction", settings.direction, DIRECTIONS)
    check_products(model, settings.products)
    if isinstance(donors, RandomDonor):
        refuse_unpushable(cells.components)
    alignments = tuple(align(model.tokenizer, pair) for pair in pairs)
    for pair, alignment in zip(pairs, alignments, strict=True):
        refuse_unreadable(pair, alignment, settings.metrics)
    corruption = settings.corruption
    subjects = None if corruption.kind == "token" else replaced(model, alignments, corruption)
    alignments = tuple(as_corrupted(alignment, corruption) for alignment in alignments)
    return Work(model, alignments, _donor_ids(model, alignments, donors), cells, settings, subjects)


class Measured(NamedTuple):
    """By metric: values `[pair, layer, (head,) place]`, and the clean and corrupted metric of each pair."""

    values: dict[str, np.ndarray]
    clean: dict[str, np.ndarray]
    corrupted: dict[str, np.ndarray]


@dataclass(frozen=True)
class Work:
    """Cells in pairs with the settings of their measurement, and the measurement of a batch of pairs of one shape."""

    model: Model
    alignments: tuple[Alignment, ...]
    donors: tuple[tuple[int, ...], ...] | RandomDonor | None
    cells: Cells
    settings: Settings
    subjects: tuple[Replaced, ...] | None  # None where corrupted runs have tokens of their own

    def measure(self, batch: Sequence[int], advance: Callable[[int], None]) -> Measured:
        """Each metric of each cell, the mean over draws; `advance` gets the rows of a pass when it is done."""
        with faster(self.model, self.settings.products):  # weights are looked at once for all runs of the batch
            drawn = [self._measure(batch, draw, advance) for draw in range(self.settings.corruption.samples)]
        return Measured(
            *(
                {metric: np.mean([each[metric] for each in parts], axis=0) for metric in self.settings.metrics}
                for parts in zip(*drawn, strict=True)
            )
        )

    def _measure(self, batch: Sequence[int], draw: int, advance: Callable[[int], None]) -> Measured:
        chosen = [self.alignments[index] for index in batch]
        answers, rows = Answers.of(chosen, self.settings.metrics), self.cells.rows(chosen)
        given, received, patched = [], [], []
        for continuation in answers.continuations:
            recipient, usual, donor = self._runs(batch, continuation, draw)
            given.append(usual.final)
            received.append(recipient.final)
            patched.append(self._patched(batch, recipient, donor, rows, advance))
        clean, corrupted = (given, received) if self.settings.direction == "denoise" else (received, given)
        single, truth = torch.arange(len(batch)), clean[0][:, answers.parting]
        values = self._read(patched, answers, rows.pair, truth)
        shape, absent = (len(batch), *self.cells.shape(chosen)), self.cells.absent(chosen)
        return Measured(
            {metric: np.where(absent, np.nan, value.reshape(shape)) for metric, value in values.items()},
            self._read(clean, answers, single, truth),
            self._read(corrupted, answers, single, truth),
        )

    def _runs(self, batch: Sequence[int], continuation: Int[Tensor, "pair token"], draw: int) -> tuple[Run, Run, Run]:
        """The run that receives, the one that usually gives, and the one that does; each goes on with the answer."""
        chosen, read_last = [self.alignments[index] for index in batch], continuation.shape[1] + 1
        clean, corrupted = [a.clean_ids for a in chosen], [a.corrupted_ids for a in chosen]
        noising = self.settings.direction == "noise"
        given, received = (corrupted, clean) if noising else (clean, corrupted)
        products = self.settings.products
        of_recipient, of_donor = needed(self.cells.components, self.model)
        if isinstance(self.donors, RandomDonor):
            of_recipient |= of_donor  # the push starts from what the recipient has

        def run(
            prompts: Sequence[tuple[int, ...]], keep: set[str], before: Run | None = None, *, corrupt: bool = False
        ) -> Run:
            ids = torch.cat([torch.tensor(prompts), continuation], dim=1)
            if self.subjects is None:
                return capture(self.model, ids, keep, read=read_last, before=before, products=products)
            # Runs that begin with the same tokens need not begin alike here.
            subjects = [self.subjects[index] for index in batch] if corrupt else []
            embed = embeddings(self.model, ids, [(each.positions, each.vectors[draw]) for each in subjects])
            return capture(self.model, ids, keep, read=read_last, embed=embed, products=products)

        recipient = run(received, of_recipient, corrupt=not noising)
        if self.donors is None:
            donor = run(given, of_donor, recipient, corrupt=noising)
            return recipient, donor, donor
        if isinstance(self.donors, RandomDonor):
            usual = run(given, of_donor, recipient, corrupt=noising)
            pushed = self.donors.run(self.model, chosen, recipient, usual, self.cells.components)
            return recipient, usual, pushed
        donors = [self.donors[index] for index in batch]
        return recipient, run(given, set(), recipient, corrupt=noising), run(donors, of_donor, recipient)

    def _patched(
        self, batch: Sequence[int], recipient: Run, donor: Run, rows: Rows, advance: Callable[[int], None]
    ) -> Float[Tensor, "row step width"]:
        if self.cells.components <= BEHIND:
            return _behind(recipient, donor, rows)
        return replay(
            self.model,
            recipient,
            donor,
            rows,
            memory=self.settings.memory // 2,
            differs=self._differs(batch, recipient, donor),
            products=self.settings.products,
            on_pass=advance,
        )

    def _differs(self, batch: Sequence[int], recipient: Run, donor: Run) -> Bool[Tensor, "pair position"]:
        """The positions whose embeddings differ between the two runs."""
        differs = recipient.ids != donor.ids
        if self.subjects is not None:
            for row, index in enumerate(batch):
                differs[row, list(self.subjects[index].positions)] = True
        return differs

    def _read(
        self, runs: Sequence[Float[Tensor, "row step width"]], answers: Answers, pair: Tensor, clean: Tensor
    ) -> dict[str, np.ndarray]:
        # At once: the logits, their logarithms of probabilities, those of the clean run, and what is made of both.
        of_row = 4 * self.model.config.vocab_size * max(4, self.model.dtype.itemsize)
        at_once = min(256, max(1, self.settings.memory // 2 // of_row))
        values = read(self.model, self.settings.metrics, runs, answers, pair=pair, clean=clean, rows_at_once=at_once)
        for metric, value in values.items():
            if not bool(torch.isfinite(value).all()):
                what = f"a run gave values of {metric} that are not finite"
                raise InputError("trace-not-finite", what, where=self.model.name, fix="try dtype float32")
        return {metric: value.double().cpu().numpy() for metric, value in values.items()}

    def count(self, index: int) -> int:
        """The patched runs that a pair needs."""
        runs = len(Answers.of([self.alignments[index]], self.settings.metrics).continuations)
        return self._cells(index) * runs * self.settings.corruption.samples

    def pairs_at_once(self, index: int) -> int:
        """How many pairs of this one's shape half of the memory holds: captured runs, rows, a result for each row."""
        model, alignment = self.model, self.alignments[index]
        answers = Answers.of([alignment], self.settings.metrics).continuations
        length = len(alignment.clean_ids) + max(tokens.shape[1] for tokens in answers)
        steps = sum(tokens.shape[1] + 1 for tokens in answers)
        of_component = {"mlp_hidden": 4 * model.width, "pattern": model.n_heads * length}
        streams = 3 * model.width + 2 * model.n_kv_heads * model.head_dim
        of_layer = streams + sum(of_component.get(name, model.width) for name in self.cells.components)
        captured = length * (model.n_layers * of_layer + FORWARD * model.width)
        results = self._cells(index) * steps * model.width
        patches = self.cells.patches(alignment) * ROW_BYTES
        return max(1, self.settings.memory // 2 // ((captured + results) * model.dtype.itemsize + patches))

    def _cells(self, index: int) -> int:
        return int(np.prod(self.cells.shape([self.alignments[index]])))


def effects_of(
    work: Work, cells: Grid, pairs: tuple[Pair | TokenPair, ...], batches: Iterator[tuple[list[int], Measured]]
) -> dict[str, Effects]:
    """The batches put together, a record for each metric."""
    metrics = work.settings.metrics
    longest = max((len(alignment.clean_ids) for alignment in work.alignments), default=0)
    width = len(cells.columns) or max(longest - cells.span + 1, 0)
    values = {metric: np.full((len(pairs), *cells.sites.axes, width), np.nan) for metric in metrics}
    runs = {metric: np.full((2, len(pairs)), np.nan) for metric in metrics}
    for batch, found in batches:
        for metric in metrics:
            values[metric][batch, ..., : found.values[metric].shape[-1]] = found.values[metric]
            runs[metric][:, batch] = found.clean[metric], found.corrupted[metric]
    return {
        metric: Effects(
            values=values[metric],
            clean=runs[metric][0],
            corrupted=runs[metric][1],
            pairs=pairs,
            alignments=work.alignments,
            component=cells.sites.component,
            direction=work.settings.direction,
            metric=metric,
            columns=cells.columns,
            window=cells.sites.window,
            corruption=work.settings.corruption,
        )
        for metric in metrics
    }


def measured(work: Work, on_progress: Callable[[int, int], None] | None) -> Iterator[tuple[list[int], Measured]]:
    """Batches of pairs of one shape with what was measured; where memory runs out, with half of it from there on."""
    shapes: dict[tuple[int, ...], list[int]] = {}
    for index, alignment in enumerate(work.alignments):
        shapes.setdefault(shape(alignment, work.settings.metrics), []).append(index)
    pending, asked = [group for _, group in sorted(shapes.items(), reverse=True)], work.settings.memory
    total, done = sum(work.count(index) for index in range(len(work.alignments))), 0
    while pending:
        group = pending.pop()
        size = work.pairs_at_once(group[0])
        batch, rest = group[:size], group[size:]
        try:
            found = work.measure(batch, _counter(on_progress, done, total))
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            if work.settings.memory <= asked >> HALVINGS:
                least = work.settings.memory
                what = f"memory ran out with a budget of {asked} bytes, and with every half down to {least}: {error}"
                fix = "close other programs, give fewer or shorter pairs, or a machine with more memory"
                raise BudgetExceeded("trace-out-of-memory", what, where=work.model.name, fix=fix) from error
            work = replace(work, settings=replace(work.settings, memory=work.settings.memory // 2))
            pending.append(group)
            continue
        if rest:
            pending.append(rest)
        done += sum(work.count(index) for index in batch)
        if on_progress:
            on_progress(done, total)
        yield batch, found


def _counter(on_progress: Callable[[int, int], None] | None, done: int, total: int) -> Callable[[int], None]:
    def advance(cells: int) -> None:
        nonlocal done
        done += cells
        if on_progress:
            on_progress(done, total)

    return advance


def _out_of_memory(error: Exception) -> bool:
    """The device's error has a class of its own; the CPU's are plain RuntimeErrors, and oneDNN's name no cause."""
    said = ("can't allocate memory", "not enough memory", "create a primitive", "execute a primitive")
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(words in str(error) for words in said)


@torch.inference_mode()
def _behind(recipient: Run, donor: Run, rows: Rows) -> Float[Tensor, "row step width"]:
    """Nothing runs behind the final norm: where a position is read the donor's is, elsewhere nothing changes."""
    patched = recipient.final[rows.pair]
    step = rows.position - (recipient.length - recipient.read)
    row, step = rows.row[step >= 0], step[step >= 0]
    patched[row, step] = donor.final[rows.pair[row], step]
    return patched


def _donor_ids(
    model: Model, alignments: Sequence[Alignment], donors: Sequence[str | Sequence[int]] | RandomDonor | None
) -> tuple[tuple[int, ...], ...] | RandomDonor | None:
    if donors is None or isinstance(donors, RandomDonor):
        return donors
    ids = tuple(encode(model.tokenizer, donor) if isinstance(donor, str) else tuple(donor) for donor in donors)
    lengths = [len(row) for row in ids]
    if lengths != [len(alignment.clean_ids) for alignment in alignments]:
        what = f"donors of {lengths} tokens for pairs of {[len(a.clean_ids) for a in alignments]}"
        raise InputError("trace-donor-length", what, fix="give one donor a pair, of the same length in tokens")
    return ids
