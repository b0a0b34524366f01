"""The page on the published study, docs/validation/clap.md, written from the results of a run.

    patchlight run studies/clap.yaml
    python -m benchmarks.clap [--reports workspace/reports] [--docs docs/validation]

Every figure of the page and of its drawings comes from the report's `published.csv`, `intervals.csv`, `summary.json`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd

from patchlight.judge.published import Weighed
from patchlight.records import Interval
from patchlight.report.charts import percent
from patchlight.report.published import figure
from patchlight.report.replay import PublishedRow, PublishedTable
from patchlight.report.texts import read_texts

PAGE = Path(__file__).with_name("clap.md.template")
DRAWN = "associative"  # the question whose wording was released
ROWS = {"first-feed-forward": "first feed-forward layer", "matrices": "matrix `{prints}`", "output-head": "output head"}


def tables(published: pd.DataFrame) -> list[PublishedTable]:
    """The tables of `published.csv`, as the report draws them."""
    return [
        PublishedTable(
            {"en": str(model)}, str(kind), (), int(rows.random_models.iloc[0]), {}, tuple(map(_row, _records(rows)))
        )
        for (model, kind), rows in published.groupby(["model", "kind"], sort=False)
    ]


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return rows.to_dict("records")


def _row(row: dict[str, Any]) -> PublishedRow:
    recovery, gap = Interval(row["recovery"], row["low"], row["high"], row["questions"]), Interval(row["gap"], 0, 0, 1)
    random = (row["random_lowest"], row["random_median"], row["random_highest"])
    names = ("role", "prints", "module", "modules", "published", "lowest", "highest")
    return PublishedRow(*(row[name] for name in names), random, Weighed(row["word"], (), recovery, gap))


def replay_table(published: pd.DataFrame, kind: str) -> str:
    """The published figures beside those of every model for one kind of question, in Markdown."""
    lines = ["| model | row | published | measured | random weights (lowest to highest, median) | what it can show |"]
    lines.append("|---|---|---|---|---|---|")
    for row in _records(published[published.kind == kind]):
        name = ROWS[row["role"]].format(prints=row["prints"])
        random = f"{percent(row['random_lowest'])} to {percent(row['random_highest'])}, {percent(row['random_median'])}"
        shares = (percent(row["published"], 1), percent(row["recovery"], 1), random, row["word"])
        lines.append("| " + " | ".join((row["model"], name, *shares)) + " |")
    return "\n".join(lines)


def proper_table(summary: dict[str, Any], intervals: pd.DataFrame) -> str:
    """The study's own answer for each kind: n, verdict, its strongest place with interval and control, in Markdown."""
    columns = (
        "kind",
        "facts (pairs)",
        "verdict",
        "strongest place: recovery (95 % interval)",
        "control there",
        "layers, p",
    )
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for each in summary["asked_properly"]:
        place = _strongest(intervals[intervals.kind == each["kind"]])
        test = "not tested" if each["layer_p"] is None else f"{each['layer_p']:.4f}"
        counts, verdict = f"{each['facts']} ({each['pairs']})", f"{each['word']}, grade {each['grade']}"
        lines.append(f"| {each['kind']} | {counts} | {verdict} | {place} | {test} |")
    return "\n".join(lines)


def _strongest(intervals: pd.DataFrame) -> str:
    found = intervals[(intervals.direction == "denoise") & ~intervals.structural & (intervals.component != "resid_pre")]
    if found.empty:
        return "nothing measured | "
    best = found.loc[found.estimate.idxmax()]
    words = f"{best.component}, layer {best.layer}, {best.role}: {percent(best.estimate)}"
    return f"{words} ({percent(best.low)} to {percent(best.high)}) | up to {percent(best.control_high)}"


def values(published: pd.DataFrame, summary: dict[str, Any], intervals: pd.DataFrame) -> dict[str, object]:
    """What the page's template is filled with."""
    heads = published[published.role == "output-head"]
    rest = published[published.role != "output-head"]
    first = published[published.role == "first-feed-forward"]
    return {
        "random_models": int(published.random_models.max()),
        "floor": f"{published.floor.max():g}",
        "heads": len(heads),
        "heads_at_one": int(((heads.recovery - 1).abs() < 1e-3).sum()),
        "random_heads": f"{percent(heads.random_lowest.min())} to {percent(heads.random_highest.max())}",
        "rows": len(rest),
        "supported": int((published.word == "supported").sum()),
        "no_denominator": int((rest.word == "no valid denominator").sum()),
        "largest_gap": f"{published.gap.max():.4f}",
        "smallest_gap": f"{published.gap.min():.4f}",
        "lowest_random": percent(rest.random_lowest.min()),
        "highest_random": percent(rest.random_highest.max()),
        "associative": replay_table(published, "associative"),
        "definitional": replay_table(published, "definitional"),
        "proper": proper_table(summary, intervals),
        "firsts": ", ".join(percent(share) for share in first.recovery),
        "first_reached": int((first.random_highest >= first.recovery).sum()),
        "first_highest": ", ".join(percent(share) for share in first.random_highest),
    }


def main() -> None:
    """Writes the page and its drawings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reports", type=Path, default=Path("workspace/reports"))
    parser.add_argument("--docs", type=Path, default=Path("docs/validation"))
    options = parser.parse_args()
    report = options.reports / "clap"
    published, intervals = (pd.read_csv(report / name) for name in ("published.csv", "intervals.csv"))
    summary = json.loads((report / "summary.json").read_text(encoding="utf-8"))
    page = Template(PAGE.read_text(encoding="utf-8")).substitute(values(published, summary, intervals))
    (options.docs / "clap.md").write_text(page, encoding="utf-8")
    for number, table in enumerate((each for each in tables(published) if each.kind == DRAWN), 1):
        drawing = figure(table, read_texts("en"))
        # A file has no page around it to take the colour of its letters from.
        light = drawing.svg.replace("<svg ", '<svg style="background:#ffffff" color="#1c1c1e" ', 1)
        (options.docs / f"clap-{number}.svg").write_text(light, encoding="utf-8")


if __name__ == "__main__":
    main()
