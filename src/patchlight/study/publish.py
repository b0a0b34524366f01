"""Puts the results of a study where people find them: the report, and beside it every table it rests on."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from patchlight.report import across, contrast
from patchlight.report.build import build_report, tested_and_passed
from patchlight.report.contents import EffectMap, Narrowing, ReportContents
from patchlight.report.published import FILE_COLUMNS, published_rows
from patchlight.report.reasons import advice
from patchlight.store.faults import told_clearly
from patchlight.study.results import CheckpointResults, SweepResult

LISTS = ("words", "corrupted_words", "roles", "also_correct", "also_wrong", "distractors")  # of a question


def publish(contents: ReportContents, results: Sequence[CheckpointResults], folder: Path) -> Path:
    """The path of the report; beside it lie `effects.parquet` (every cell of every pair), `intervals.csv` (every
    aggregate with its interval, control and n), `robustness.csv` (corruptions and metrics compared), `metrics.csv` (the
    further metrics of every sweep beside its first), `screening.csv` (every place that was screened), `across.csv`
    (what was exchanged between models), `kinds.csv` and `balance.csv` (kinds compared over matched facts, and how well
    these match), `published.csv` (a published table measured again, where the study asks for
    it), `questions.csv`, `left_out.csv` and `summary.json`.
    """
    with told_clearly(folder):
        folder.mkdir(parents=True, exist_ok=True)
        effects = pd.DataFrame(row for result in results for sweep in result.sweeps for row in _cells(result, sweep))
        _replace(folder / "effects.parquet", effects.to_parquet(index=False))
        _replace_csv(folder / "intervals.csv", pd.DataFrame(_intervals(contents)))
        _replace_csv(folder / "robustness.csv", _compared(contents, "robustness"))
        _replace_csv(folder / "metrics.csv", _compared(contents, "metrics"))
        _replace_csv(folder / "across.csv", pd.DataFrame(_exchanged(contents)))
        _replace_csv(folder / "screening.csv", _screened(contents))
        _replace_csv(folder / "kinds.csv", pd.DataFrame(contrast.kinds_rows(contents), columns=contrast.COLUMNS))
        balance = pd.DataFrame(contrast.balance_rows(contents), columns=contrast.BALANCE_COLUMNS)
        _replace_csv(folder / "balance.csv", balance)
        if contents.replay:
            _replace_csv(folder / "published.csv", pd.DataFrame(published_rows(contents.replay), columns=FILE_COLUMNS))
        _replace_csv(folder / "questions.csv", pd.DataFrame(_questions(results)))
        _replace_csv(folder / "left_out.csv", pd.concat([_left_out(result) for result in results]))
        _replace(folder / "summary.json", json.dumps(summary(contents), ensure_ascii=False, indent=2).encode())
        return build_report(contents, folder)


def summary(contents: ReportContents) -> dict[str, Any]:
    """The verdicts of a study with their reasons, and what it asked properly beside a published protocol, as JSON."""
    replay = {"asked_properly": [asdict(each) for each in contents.replay.properly]} if contents.replay else {}
    return {
        "study": contents.provenance.study_hash,
        "title": dict(contents.title),
        "date": contents.provenance.date,
        "unknown": list(contents.unknown),
        "checkpoints": [
            {
                "name": checkpoint.name["en"],
                "names": dict(checkpoint.name),
                "digest": checkpoint.digest,
                "places": dict(zip(("tested", "passed"), tested_and_passed(checkpoint), strict=True)),
                "checks": {"made": len(checkpoint.checks), "failed": sum(not each.held for each in checkpoint.checks)},
                "known": [vars(each) for each in checkpoint.known],
                "kinds": [
                    {
                        "kind": result.kind,
                        "pairs": result.pairs,
                        "facts": result.facts,
                        "screening": _figures(result.narrowing),
                        "verdict": result.verdict.word,
                        "grade": result.verdict.grade,
                        "candidates": len(result.verdict.candidates),
                        "confirmed": sum(each.confirmed for each in result.verdict.candidates),
                        "reasons": [[reason.code, dict(reason.numbers)] for reason in result.verdict.reasons],
                        "why_not_stronger": [
                            [reason.code, dict(reason.numbers)] for reason in result.verdict.why_not_stronger
                        ],
                        "what_to_add": advice(result.verdict),
                    }
                    for result in checkpoint.kinds
                ],
            }
            for checkpoint in contents.checkpoints
        ],
        **replay,
    }


def _figures(narrowing: Narrowing | None) -> dict[str, Any] | None:
    """What came of a screening, without what is not a number: JSON has no word for it."""
    if narrowing is None:
        return None
    figures = narrowing.screening.figures()
    return {name: value for name, value in figures.items() if not (isinstance(value, float) and math.isnan(value))}


def _cells(result: CheckpointResults, sweep: SweepResult) -> Iterator[dict[str, Any]]:
    for index, question in enumerate(result.questions):
        clean, corrupted = question.clean, question.corrupted
        if sweep.clean is not None and sweep.corrupted is not None:
            clean, corrupted = sweep.clean[index], sweep.corrupted[index]
        layers, width = sweep.values.shape[1], len(question.words)
        for layer, position in np.ndindex(layers, width):
            yield {
                "checkpoint": result.checkpoint.key,
                "component": sweep.component,
                "direction": sweep.direction,
                "control": sweep.control,
                "null": sweep.null,
                "fact": question.pair.fact,
                "kind": question.pair.kind,
                "template": question.pair.template,
                "layer": layer,
                "position": position,
                "role": question.roles[position],
                "word": question.words[position],
                "clean": clean,
                "corrupted": corrupted,
                "patched": sweep.values[index, layer, position],
                "structural": sweep.structural[index, layer, position],
            }


def _intervals(contents: ReportContents) -> Iterator[dict[str, Any]]:
    for checkpoint in contents.checkpoints:
        for result in checkpoint.kinds:
            for each in result.maps:
                yield from (
                    {"checkpoint": checkpoint.name["en"], "kind": result.kind, **row} for row in _map_rows(each)
                )


def _map_rows(each: EffectMap) -> Iterator[dict[str, Any]]:
    for layer, column in np.ndindex(each.structural.shape):
        bands = {"": each.effect} if each.control is None else {"": each.effect, "control_": each.control}
        bands |= {f"{name}_": null for name, null in each.nulls.items()}
        yield {
            "component": each.component,
            "direction": each.direction,
            "layer": layer,
            "role": each.roles[column],
            **{
                f"{prefix}{name}": getattr(band, name)[layer, column]
                for prefix, band in bands.items()
                for name in ("estimate", "low", "high", "n")
            },
            "structural": each.structural[layer, column],
            "significant": each.significant[layer, column],
        }


def _compared(contents: ReportContents, name: str) -> pd.DataFrame:
    tables = [
        made.to_frame().assign(
            checkpoint=checkpoint.name["en"], kind=result.kind, component=made.component, direction=made.direction
        )
        for checkpoint in contents.checkpoints
        for result in checkpoint.kinds
        for made in getattr(result, name)
    ]
    return pd.concat(tables) if tables else pd.DataFrame(columns=["checkpoint", "corruption", "metric"])


def _screened(contents: ReportContents) -> pd.DataFrame:
    tables = [
        result.narrowing.screening.to_frame().assign(checkpoint=checkpoint.name["en"], kind=result.kind)
        for checkpoint in contents.checkpoints
        for result in checkpoint.kinds
        if result.narrowing
    ]
    return pd.concat(tables) if tables else pd.DataFrame(columns=["checkpoint", "kind", "site"])


def _exchanged(contents: ReportContents) -> Iterator[dict[str, Any]]:
    for checkpoint in contents.checkpoints:
        for result in checkpoint.kinds:
            for each in result.across:
                names = {"checkpoint": checkpoint.name["en"], "kind": result.kind, "direction": each.direction}
                yield from (
                    {**names, "what": each.what, **dict(zip(across.COLUMNS, row, strict=True))}
                    for row in across.rows(each)
                )


def _questions(results: Sequence[CheckpointResults]) -> Iterator[dict[str, Any]]:
    for result in results:
        for row in result.asked.meta["pairs"]:
            tokens = {name: " | ".join(row[name]) for name in LISTS}
            yield {
                "checkpoint": result.checkpoint.key,
                **row,
                **tokens,
                "differing": " ".join(map(str, row["differing"])),
            }


def _left_out(result: CheckpointResults) -> pd.DataFrame:
    table = result.asked.table("left_out")
    table.insert(0, "checkpoint", result.checkpoint.key)
    return table


def _replace_csv(file: Path, table: pd.DataFrame) -> None:
    # The mark at the beginning makes spreadsheets read Japanese as UTF-8.
    _replace(file, table.to_csv(index=False).encode("utf-8-sig"))


def _replace(file: Path, content: bytes) -> None:
    unfinished = file.with_name(f".{file.name}.unfinished")
    unfinished.write_bytes(content)
    unfinished.replace(file)
