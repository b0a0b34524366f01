"""Changes of the metric over many pairs: estimated for every cell, or exact for chosen cells."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from patchlight.errors import InputError
from patchlight.pairs.align import Alignment, align
from patchlight.records import Pair
from patchlight.trace.capture import capture
from patchlight.trace.engine import replay
from patchlight.trace.gradients import ATTENTION, METHODS, STEPS, STREAM, Exchange, estimated, metric, reads
from patchlight.trace.plan import needed
from patchlight.trace.rows import ALL, COMPONENTS, Rows
from patchlight.trace.sites import check_component
from patchlight.trace.sweep import DIRECTIONS, MEMORY

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from patchlight.model.anatomy import Model

ESTIMATED = (*STREAM, "resid_mid", "attn_out", "mlp_out", "head_out", *ATTENTION, "mlp_hidden")

Cells = Mapping[str, "np.ndarray"]  # by component, `[pair, layer, (head,) position]`


@dataclass(frozen=True)
class Changes:
    """What replacing each activation alone changes of the metric, in logits; positive is up, whatever the direction.

    `cells[component]` is `[pair, layer, (head,) position]`, NaN where a shorter prompt has no position and where
    nothing was asked. `gap` is the metric of the donor minus that of the recipient: negative where noising.
    """

    cells: Cells
    gap: Float[np.ndarray, "pair"]


def estimate(
    model: Model,
    pairs: Sequence[Pair],
    *,
    components: Sequence[str] = ("attn_out", "mlp_out"),
    direction: str = "denoise",
    method: str = "attribution",
    steps: int = STEPS,
    memory: int = MEMORY,
) -> Changes:
    """The estimated change of the logit difference for every cell of these components: to order work, not to report.

    `attribution` takes one forward and one backward for all cells; `integrated` takes `steps` of both; `atp_star` takes
    one forward and about half a backward a layer (see `gradients.estimated`). `memory` in bytes bounds what is held
    beside the model, down to one pair at a time. Raises InputError for what `sweep` refuses, for `pattern`,
    `final_norm` and `logits`, for answers that share their first tokens, and where an estimate is not finite.
    """
    _check(model, components, direction, method)
    alignments = _aligned(model, pairs)
    cells = {component: np.full(shape(model, component, alignments), np.nan) for component in components}
    components, gap = tuple(cells), np.full(len(pairs), np.nan)
    for group in groups(alignments, memory // _bytes_a_token(model, alignments)):
        exchange = _exchange(model, [alignments[index] for index in group], direction, reads(components))
        gap[group] = _gap(exchange)
        for component, values in estimated(exchange, components, method, steps).items():
            if not bool(torch.isfinite(values).all()):
                what = f"estimates of {component} are not finite (NaN or infinite)"
                raise InputError("trace-not-finite", what, where=model.name, fix="try dtype float32 or float64")
            cells[component][group, ..., : exchange.recipient.length] = values.double().cpu().numpy()
    return Changes(cells, gap)


def patch_cells(
    model: Model,
    pairs: Sequence[Pair],
    chosen: Cells,
    *,
    direction: str = "denoise",
    memory: int = MEMORY,
    on_progress: Callable[[int, int], None] | None = None,
) -> Changes:
    """The exact change of the logit difference for the cells that are true in `chosen`, each patched alone.

    `on_progress` gets the cells done and all cells. Raises InputError as `estimate` does.
    """
    _check(model, tuple(chosen), direction)
    alignments = _aligned(model, pairs)
    cells = {component: np.full(wanted.shape, np.nan) for component, wanted in chosen.items()}
    gap = np.full(len(pairs), np.nan)
    kept = {name for component in chosen for part in needed(component, model) for name in part}
    done, total = 0, sum(int(wanted.sum()) for wanted in chosen.values())
    for group in groups(alignments, memory // 2 // _bytes_a_token(model, alignments)):
        exchange = _exchange(model, [alignments[index] for index in group], direction, kept)
        gap[group] = _gap(exchange)
        for component, wanted in chosen.items():
            found = np.argwhere(wanted[group])
            places = (np.array(group)[found[:, 0]], *found[:, 1:].T)
            cells[component][places] = _exact(exchange, component, found, memory // 2)
            done += len(found)
            if on_progress:
                on_progress(done, total)
    return Changes(cells, gap)


def shape(model: Model, component: str, alignments: Sequence[Alignment]) -> tuple[int, ...]:
    """The shape of a component's cells: pairs, layers, (heads,) positions of the longest prompt."""
    layers = 1 if component == "embed" else model.n_layers
    heads = {"head_out": model.n_heads, "q": model.n_heads, "k": model.n_kv_heads, "v": model.n_kv_heads}
    axes = (layers, heads[component]) if component in heads else (layers,)
    return (len(alignments), *axes, max((len(alignment.clean_ids) for alignment in alignments), default=0))


def reaching(
    model: Model, component: str, alignments: Sequence[Alignment]
) -> Bool[np.ndarray, "pair layer *head position"]:
    """Which cells can change the metric at all, in the graph of a decoder; the others are 0 by construction."""
    result = np.zeros(shape(model, component, alignments), dtype=bool)
    for pair, alignment in enumerate(alignments):
        length = len(alignment.clean_ids)
        found = np.argwhere(np.ones_like(result[:1, ..., :length]))
        differs = torch.zeros(1, length, dtype=torch.bool)
        differs[0, list(alignment.differing)] = True
        live = found[_rows(component, found).working(differs, model.n_layers).live.numpy()]
        result[(pair, *live[:, 1:].T)] = True
    return result


def groups(alignments: Sequence[Alignment], tokens: int) -> Iterator[list[int]]:
    """Pairs of one length, as many at once as have `tokens` tokens, and at least one."""
    lengths = [len(alignment.clean_ids) for alignment in alignments]
    for length in sorted(set(lengths)):
        group = [index for index, value in enumerate(lengths) if value == length]
        size = max(1, tokens // length)
        for start in range(0, len(group), size):
            yield group[start : start + size]


def _check(model: Model, components: Collection[str], direction: str, method: str = METHODS[0]) -> None:
    for what, value, choices in (
        ("component", next((each for each in components if each not in ESTIMATED), ESTIMATED[0]), ESTIMATED),
        ("direction", direction, DIRECTIONS),
        ("method", method, METHODS),
    ):
        if value not in choices:
            fix = f"choose one of: {', '.join(choices)}"
            raise InputError(f"trace-unknown-{what}", f"no {what} {value!r} in a screen", fix=fix)
    for component in components:
        check_component(component, model)


def _aligned(model: Model, pairs: Sequence[Pair]) -> list[Alignment]:
    alignments = [align(model.tokenizer, pair) for pair in pairs]
    late = next((pair for pair, alignment in zip(pairs, alignments, strict=True) if alignment.parting), None)
    if late is not None:
        what = (
            f"the answers {late.correct!r} and {late.wrong!r} share their first tokens, and a screen reads one position"
        )
        raise InputError("trace-answers-part-late", what, where=f"pair {late.clean!r}", fix="use `sweep` for this pair")
    return alignments


def _exchange(model: Model, alignments: Sequence[Alignment], direction: str, components: Collection[str]) -> Exchange:
    clean = torch.tensor([alignment.clean_ids for alignment in alignments])
    corrupted = torch.tensor([alignment.corrupted_ids for alignment in alignments])
    answers = torch.tensor([(alignment.correct_id, alignment.wrong_id) for alignment in alignments])
    given, received = (clean, corrupted) if direction == "denoise" else (corrupted, clean)
    recipient, donor = (capture(model, ids, components) for ids in (received, given))
    return Exchange(model, recipient, donor, answers.to(model.device))


@torch.no_grad()
def _gap(exchange: Exchange) -> Float[np.ndarray, "pair"]:
    own, given = (metric(exchange.model, run.final, exchange.answers) for run in (exchange.recipient, exchange.donor))
    gap: np.ndarray = (given - own).double().cpu().numpy()
    return gap


@torch.no_grad()
def _exact(exchange: Exchange, component: str, cells: np.ndarray, memory: int) -> Float[np.ndarray, "cell"]:
    model, rows = exchange.model, _rows(component, cells)
    final = replay(model, exchange.recipient, exchange.donor, rows, memory=memory)
    pair = rows.pair.to(model.device)
    before = metric(model, exchange.recipient.final, exchange.answers)
    changes: np.ndarray = (metric(model, final, exchange.answers[pair]) - before[pair]).double().cpu().numpy()
    return changes


def _rows(component: str, cells: np.ndarray) -> Rows:
    """A row for each cell (pair, layer, (head,) position)."""
    columns = torch.from_numpy(cells.T.copy())
    pair, layer, *unit, position = columns
    kind = torch.full_like(pair, COMPONENTS.index(component))
    units = unit[0] if unit else torch.full_like(pair, ALL)
    return Rows.at(pair, torch.stack([torch.arange(len(pair)), kind, layer, units, position]))


def _bytes_a_token(model: Model, alignments: Sequence[Alignment]) -> int:
    """Of a forward that can be differentiated, with what is captured of donor and recipient: measured, rounded up."""
    longest = max((len(alignment.clean_ids) for alignment in alignments), default=0)
    return model.n_layers * (120 * model.width + 4 * model.n_heads * longest) * model.dtype.itemsize
