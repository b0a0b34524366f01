"""Activation patching in Patchlight and its peers, timed on the same work.

    make bench                                   the standard set, published in docs/validation (an hour by estimate)
    make bench QUICK=1                           the same in small, to see that it runs (a few minutes)
    python -m benchmarks.speed --tokens 32 --differ 8,18 --workloads W1 --peers hooks_batched patchlight
    python -m benchmarks.speed --atlas --pairs 200 --differ 4,9
    python -m benchmarks.speed --device cuda --peers transformer_lens patchlight

Workloads: W1 residual stream, layer x position; W2 attention and MLP outputs, layer x position; W3 each head's output
at all positions. Denoising; the metric is a logit difference at the last position, a number for every pair and place.

Timed: from token ids to these numbers, reference runs included; not imports, loading, or one warm-up on one pair. A
peer that spends a whole forward on each place, whichever it is, replaces two layers (at most 16 positions in each) and
that step is scaled to all places; Patchlight does all of them. Ratios are taken inside each round.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.flops import rates
from benchmarks.speed.models import SHAPES
from benchmarks.speed.peers import PEERS
from benchmarks.speed.rounds import OURS, Machine, Setting, atlas, compare, starting
from benchmarks.speed.table import atlas_markdown, bars, markdown
from benchmarks.speed.work import WORKLOADS

PUBLISHED = Path("docs/validation")
MARKS = ("<!-- measured: begin -->", "<!-- measured: end -->")
PLACES = ((4, 9), (10,), (15,))  # of 16 tokens
FEWER = ("hooks_batched", "transformer_lens", "patchlight")


def standard() -> list[Setting]:
    """The published set: all peers on all work; pairs that differ in few places, short and long; another family."""
    lengths = {16: 8, 32: 8, 64: 4, 128: 2}  # tokens: pairs, so that a forward of the peers stays about as large
    few = [
        Setting(pairs=pairs, tokens=tokens, differing=_stretched(at, tokens), workloads=("W1",), peers=FEWER)
        for tokens, pairs in lengths.items()
        for at in PLACES
    ]
    return [Setting(), *few, Setting(model="llama", peers=FEWER)]


def main() -> None:
    """Runs what the command line asks for."""
    asked = _parser().parse_args()
    torch.set_num_threads(asked.threads)
    machine = Machine(asked.threads, asked.device)
    settings = standard() if asked.standard else [_own(asked)]
    if asked.quick:
        settings = list(dict.fromkeys(setting.quick() for setting in settings))
    with starting(machine) as start:
        if asked.atlas:
            print(atlas_markdown(list(atlas(settings[0], machine, start))))
            return
        runs = []
        for setting in settings:
            for run in compare(setting, asked.rounds, machine, start):
                runs.append(run)
                print(_line(run), flush=True)
    _report(runs, asked)


def _report(runs: list[dict[str, Any]], asked: argparse.Namespace) -> None:
    table, drawing = markdown(runs), bars(runs, "How many times as long as Patchlight its peers took")
    print(f"\n{table}\n\nProducts, GFLOP/s: {_measured_rates(asked.device)}")
    folder = PUBLISHED if asked.publish else Path("build/speed")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "speed.json").write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
    drawing.save(folder / "speed.svg")
    if asked.publish:
        _into(folder / "speed.md", table)


def _own(asked: argparse.Namespace) -> Setting:
    differing = None if asked.differ == "all" else tuple(int(at) for at in asked.differ.split(","))
    sizes = (asked.model, asked.layers, asked.pairs, asked.tokens, differing)
    peers = tuple(dict.fromkeys((*asked.peers, OURS)))
    return Setting(*sizes, tuple(asked.workloads), peers)


def _stretched(positions: tuple[int, ...], tokens: int) -> tuple[int, ...]:
    """The same fractions of a prompt of `tokens` tokens; the last stays the last."""
    return tuple(tokens - 1 if at == 15 else at * tokens // 16 for at in positions)


def _line(run: dict[str, Any]) -> str:
    where = f"{run['model']} {run['pairs']}x{run['tokens']} differ {run['differing'] or 'all'} {run['workload']}"
    return f"{where} round {run['round']} {run['peer']:17s} {run['seconds']:8.2f} s"


def _measured_rates(device: str) -> str:
    measured = rates(device)
    kind = "packed by oneDNN" if measured.pop("packed") else "torch's own"
    return ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in measured.items()) + f" ({kind})"


def _into(page: Path, table: str) -> None:
    """Puts the table between the page's two marks."""
    text = page.read_text(encoding="utf-8")
    begin, end = MARKS
    changed = re.sub(f"{begin}.*?{end}", lambda _: f"{begin}\n{table}\n{end}", text, count=1, flags=re.DOTALL)
    page.write_text(changed, encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    own = Setting()
    parser.add_argument("--standard", action="store_true", help="the published set; ignores the options of the work")
    parser.add_argument("--atlas", action="store_true", help="Patchlight alone: the workloads in both directions, once")
    parser.add_argument("--quick", action="store_true", help="three layers, two pairs, eight tokens")
    parser.add_argument("--publish", action="store_true", help="write into docs/validation, not into build/speed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    work = parser.add_argument_group("the work")
    work.add_argument("--model", choices=SHAPES, default=own.model, help="the shape; the weights are random")
    work.add_argument("--layers", type=int, help="make the model shallower")
    work.add_argument("--pairs", type=int, default=own.pairs)
    work.add_argument("--tokens", type=int, default=own.tokens)
    work.add_argument("--differ", default="all", help="all, or the positions where the pairs differ, such as 4,9")
    work.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=own.workloads)
    work.add_argument(
        "--peers", nargs="+", default=own.peers, choices=PEERS, help="differences are taken from the first"
    )
    return parser


if __name__ == "__main__":
    main()
