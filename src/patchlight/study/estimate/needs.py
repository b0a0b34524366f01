"""What a study needs beside time: memory, disk, and the places that people may have to look at."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]

from patchlight.pairs.align import align
from patchlight.report.estimate import Span
from patchlight.study.estimate.outline import parameters
from patchlight.study.estimate.plan import Subject, stand_in
from patchlight.study.estimate.survey import Part, Survey, kinds_of
from patchlight.study.results import SweepResult
from patchlight.study.reviewing import DECOYS
from patchlight.study.spec import Study
from patchlight.study.view import CONTRIBUTIONS, KindView
from patchlight.trace.sufficient import eligible_sites

PROCESS = Span(0.5 * 2**30, 1.5 * 2**30)  # of the libraries: measured 0.6 to 1.2 GiB
REPORT = Span(1 * 2**20, 60 * 2**20)  # pages and tables beside the effects
ADAM = 4  # weights, gradients and two moments, in float32
BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
TRAINED = 4  # bytes of a trained weight: always float32


def memory_of(survey: Survey) -> Span:
    """The largest amount of memory in use, in bytes: the process, the models that are held at once, and what runs.

    The low end holds one model, or trains it; the high end holds the model before training and one after it, three with
    random weights (that of one kind's sets may still be there when the next one's is made), each with its weights
    packed where they are while it is swept, and all of `sweep.memory`; or it trains with a batch of activations.
    """
    study, model = survey.study, survey.model
    packed = study.spec.model.dtype == "float32" and study.spec.model.device == "cpu"
    weights = parameters(model)
    held, trained = weights * BYTES[study.spec.model.dtype], weights * TRAINED
    low = high = float(held)
    if study.spec.training:
        choices = study.spec.training.values()
        tokens = max(each.batch_size * each.block_length for each in choices)
        low = max(low, float(ADAM * trained))
        streams = 16 * model.width * model.n_layers + 3 * model.config.vocab_size
        high = held + (ADAM + 1) * trained + 4.0 * tokens * streams
    models = (2 if study.spec.training else 1) + 3
    swept = held * models * (2 if packed else 1) + float(study.spec.sweep.memory)
    return PROCESS + Span(low, max(high, swept))


def free_memory(study: Study) -> float:
    """The memory that is free on the study's device, in bytes."""
    if study.spec.model.device.startswith("cuda"):
        import torch

        if torch.cuda.is_available():
            return float(torch.cuda.mem_get_info(study.spec.model.device)[0])
    return float(psutil.virtual_memory().available)


def disk_of(survey: Survey, parts: Sequence[Part]) -> Span:
    """What the workspace grows by, in bytes: cells of the sweeps, trained models, reports.

    The high end has the checkpoints of a training beside it, which are removed when it ends.
    """
    weights = parameters(survey.model)
    trained = sum(weights * TRAINED for each in survey.schoolings if survey.kept(each.unit) is None)
    cells = [_cells_bytes(survey.study, part, survey.model.n_layers) for part in parts]
    least = sum(size for size, part in zip(cells, parts, strict=True) if part.certain)
    passing = 2 * (ADAM - 1) * weights * TRAINED if trained else 0
    # Every cell is once more in the published table, smaller.
    return REPORT + Span(trained + least, 1.2 * trained + passing + 1.5 * sum(cells))


def _cells_bytes(study: Study, part: Part, n_layers: int) -> float:
    """Values in float64, and whether each restores everything by construction."""
    sweeps = sum(each.stage in ("sweep", "controls") for each in part.planned)
    units = max(1, -(-len(part.questions) // study.spec.sweep.pairs_per_unit))
    length = max((len(question.words) for question in part.questions), default=0)
    return sweeps / units * len(part.questions) * n_layers * length * (8 * len(study.spec.sweep.metrics) + 1)


def candidates_of(survey: Survey, parts: Sequence[Part], workspace: Path) -> Span:
    """The candidates that people may have to look at, decoys among them.

    From none to every place that can change anything, and a set for each kind; exact where the study has a report.
    """
    known = _reported(survey.study, workspace)
    if known is not None:
        return _with_decoys(known, known)
    most = 0
    for part in parts:
        for kind in kinds_of(part.questions):
            pairs = [question.pair for question in part.questions if question.pair.kind == kind]
            components = [name for name in CONTRIBUTIONS if name in survey.study.spec.sweep.components]
            alignments = [align(survey.model.tokenizer, pair) for pair in pairs]
            most += len(eligible_sites(alignments, components, survey.model.n_layers)) + 1
    return _with_decoys(0, most)


def _with_decoys(low: int, high: int) -> Span:
    return Span(low + round(DECOYS * low), high + round(DECOYS * high))


def _reported(study: Study, workspace: Path) -> int | None:
    file = workspace / "reports" / study.spec.id / "summary.json"
    if not file.is_file():
        return None
    summary = json.loads(file.read_text(encoding="utf-8"))
    if summary["study"] != study.spec.digest:
        return None
    return sum(int(kind["candidates"]) for point in summary["checkpoints"] for kind in point["kinds"])


def maps_of(study: Study, parts: Sequence[Part]) -> tuple[Span, Span]:
    """The kinds of knowledge that are judged, in each model, and their maps with intervals: components x directions."""
    counts = [(len(kinds_of(part.questions)), part.certain) for part in parts]
    kinds = Span(sum(count for count, certain in counts if certain), sum(count for count, _ in counts))
    return kinds, kinds.times(len(study.spec.sweep.components) * len(study.spec.sweep.directions))


def judging_work(survey: Survey, part: Part) -> Callable[[Callable[[float], None]], None]:
    """Work for a trial: one map with its null maps, of made-up effects of the size that is to come."""
    study, models = survey.study, {"random-init": part.checkpoint}
    subject = Subject(study, part.checkpoint, part.questions, models, survey.model)

    def work(report: Callable[[float], None]) -> None:
        kind = kinds_of(part.questions)[0]
        rows = np.array([question.pair.kind == kind for question in part.questions], dtype=bool)
        sweeps = stand_in(subject)[:1]
        sweeps += [_as_null(sweeps[0], null) for null in study.spec.controls]
        mine = tuple(question for question in part.questions if question.pair.kind == kind)
        view = KindView(study, kind, mine, tuple(sweep.of(rows) for sweep in sweeps), tuple(study.spec.controls))
        view.effect_map(view.sweeps[0])
        report(1)

    return work


def _as_null(sweep: SweepResult, null: str) -> SweepResult:
    return SweepResult(sweep.component, sweep.direction, null, sweep.values, sweep.structural)
