"""What the rounds come to: a Markdown table, and a drawing."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.speed.rounds import OURS
from patchlight.report.svg import Canvas, Drawing

NAMES = {
    "hooks": "plain hooks, a forward a site",
    "hooks_batched": "plain hooks, batched, last logits only",
    "transformer_lens": "TransformerLens",
    "nnsight": "nnsight, batched",
    OURS: "Patchlight",
}
COLOURS = {
    "hooks": "#9a9a9a",
    "hooks_batched": "#6f6f6f",
    "transformer_lens": "#7a74c9",
    "nnsight": "#4b8f6a",
    OURS: "#c2640a",
}
BAR, LEFT, SCALE = 16, 250, 420  # pixels: height of a bar, room for names, width of the longest bar

Run = dict[str, Any]


def markdown(runs: Sequence[Run]) -> str:
    """The tables of all settings: times and ratios; then memory and agreement."""
    peers = [name for name in NAMES if name != OURS and any(run["peer"] == name for run in runs)]
    head = ["model", "pairs x tokens", "differ at", "work", *(NAMES[name] for name in peers), "Patchlight"]
    lines = [_row([*head, "needed of naive TFLOP", "share of peak"]), _row(["---"] * (len(head) + 2))]
    for group in _groups(runs):
        lines.append(_row(_cells(group, peers)))
    return "\n".join([*lines, "", *_agreement(runs)])


def atlas_markdown(runs: Sequence[Run]) -> str:
    """The table of an atlas: seconds for each workload and direction, and in all."""
    lines = [_row(["work", "direction", "seconds", "share of peak", "peak MiB"]), _row(["---"] * 5)]
    for run in runs:
        cells = [run["workload"], run["direction"], f"{run['seconds']:.1f}", f"{share(run):.0%}", _mib([run])]
        lines.append(_row(cells))
    total = sum(run["seconds"] for run in runs)
    what = (
        f"{_name(runs[0])}, {runs[0]['pairs']} pairs x {runs[0]['tokens']} tokens, differing at {_differing(runs[0])}"
    )
    return "\n".join([*lines, "", f"{what}: {total / 60:.1f} min in all."])


def share(run: Run) -> float:
    """The rate at which needed operations were done, as a share of the 2048^3 product measured in the same round."""
    rate: float = run["needed_flop"] / run["seconds"] / run["rates"]["2048^3"]
    return rate


def ratios(group: Sequence[Run], peer: str) -> list[float]:
    """How many times as long a peer took as Patchlight, round by round."""
    ours = {run["round"]: run["seconds"] for run in group if run["peer"] == OURS}
    return [run["seconds"] / ours[run["round"]] for run in group if run["peer"] == peer and run["round"] in ours]


def bars(runs: Sequence[Run], label: str) -> Drawing:
    """Bars of how many times as long as Patchlight each peer took, for each workload of the first setting."""
    groups = [group for group in _groups(runs) if _key(group[0])[:-1] == _key(runs[0])[:-1]]
    found = [(group, [(peer, ratios(group, peer)) for peer in NAMES if ratios(group, peer)]) for group in groups]
    longest = max(max(each) for _, some in found for _, each in some)
    width, height = LEFT + SCALE + 90, sum(30 + len(some) * (BAR + 6) for _, some in found)
    canvas = Canvas(width, height, label)
    canvas.box((0, 0), width, height, fill="#ffffff")  # an image on a page knows nothing of the page's colours
    y = 0.0
    for group, some in found:
        canvas.text((0, y + 14), f"{group[0]['workload']}: times as long as Patchlight (median; line: all rounds)")
        y += 22
        for peer, each in some:
            end = LEFT + SCALE * statistics.median(each) / longest
            canvas.text((LEFT - 8, y + 12), NAMES[peer], text_anchor="end")
            canvas.box((LEFT, y), end - LEFT, BAR, f"{statistics.median(each):.2f}", fill=COLOURS[peer])
            ends = [(LEFT + SCALE * value / longest, y + BAR / 2) for value in (min(each), max(each))]
            canvas.line(ends, stroke_width=1.5)
            canvas.text((max(end, ends[1][0]) + 6, y + 12), f"{statistics.median(each):.1f}x")
            y += BAR + 6
        y += 8
    return canvas.done()


def _cells(group: Sequence[Run], peers: Iterable[str]) -> list[str]:
    first, ours = group[0], [run for run in group if run["peer"] == OURS]
    differing = [_name(first), f"{first['pairs']} x {first['tokens']}", _differing(first), first["workload"]]
    times = [_against(group, peer) for peer in peers]
    size = f"{first['needed_flop'] / 1e12:.3g} of {first['naive_flop'] / 1e12:.3g}"
    own = f"{_median(ours, 'seconds'):.2f} s"
    return [*differing, *times, own, size, f"{statistics.median(share(run) for run in ours):.0%}"]


def _against(group: Sequence[Run], peer: str) -> str:
    runs, each = [run for run in group if run["peer"] == peer], ratios(group, peer)
    if not runs:
        return ""
    return f"{_median(runs, 'seconds'):.3g} s, **{statistics.median(each):.1f}x** ({min(each):.1f}-{max(each):.1f})"


def _agreement(runs: Sequence[Run]) -> list[str]:
    lines = [
        _row(["peer", "versions", "largest difference in logits, from", "peak MiB above the loaded model, at most"])
    ]
    lines.append(_row(["---"] * 4))
    for peer, name in NAMES.items():
        some = [run for run in runs if run["peer"] == peer]
        if some:
            worst = max(some, key=lambda run: run["largest_difference"])
            versions = ", ".join(f"{one} {version}" for one, version in some[0]["versions"].items())
            far = f"{worst['largest_difference']:.1e}, {NAMES[worst['difference_from']]}"
            lines.append(_row([name, versions, far, _mib(some)]))
    return lines


def _groups(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs of each setting and workload, in the order they were made."""
    found: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        found.setdefault(_key(run), []).append(run)
    return list(found.values())


def _key(run: Run) -> tuple[Any, ...]:
    return run["model"], run["layers"], run["pairs"], run["tokens"], _differing(run), run["workload"]


def _name(run: Run) -> str:
    return run["model"] if run["layers"] is None else f"{run['model']}, {run['layers']} layers"


def _differing(run: Run) -> str:
    return "all" if run["differing"] is None else ", ".join(str(at) for at in run["differing"])


def _median(runs: Sequence[Run], what: str) -> float:
    return statistics.median(run[what] for run in runs)


def _mib(runs: Sequence[Run]) -> str:
    known = [run["peak_mib"] for run in runs if run["peak_mib"] is not None]
    return f"{max(known):.0f}" if known else "not told"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
