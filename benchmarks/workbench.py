"""How fast the workbench answers with 10,000 candidates in its queue.

    python benchmarks/workbench.py [--candidates 10000] [--asks 40]

Made evidence of the size of a 24-layer study with 64 pairs. The requests go through the whole app (sign-in, hosts,
forms, templates) in one process, without a network; each page is asked for once before it is timed.
"""

from __future__ import annotations

import argparse
import platform
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from starlette.testclient import TestClient

from patchlight.review import sessions
from patchlight.review.people import accept, first_token, invite
from patchlight.review.queue import put
from patchlight.review.records import Evidence
from patchlight.web.app import create_app

LAYERS, ROLES, PAIRS, WORDS = 24, ("subject_first", "subject_last", "relation", "last"), 64, 12
BATCH = 500
ORIGIN = "http://127.0.0.1"
PROMISED = {"list": 300, "evidence": 700}  # milliseconds, promise P1


def share(random: np.random.Generator, around: float) -> dict[str, Any]:
    """An interval of a share."""
    estimate = float(around + random.normal(0, 0.05))
    return {"estimate": estimate, "low": estimate - 0.1, "high": estimate + 0.1, "n": 24}


def cells(random: np.random.Generator, columns: int, around: float = 0.0) -> list[list[float]]:
    """A map of numbers."""
    found: list[list[float]] = (around + random.normal(0, 0.1, (LAYERS, columns))).tolist()
    return found


def effect_map(random: np.random.Generator) -> dict[str, Any]:
    """A map over all questions, with its control."""
    bands = {"estimate": 0.1, "low": 0.0, "high": 0.2, "control_low": -0.1, "control_high": 0.1}
    marks = {name: [[False] * len(ROLES)] * LAYERS for name in ("significant", "structural")}
    return {"roles": ROLES, **{name: cells(random, len(ROLES), around) for name, around in bands.items()}, **marks}


def question(random: np.random.Generator, number: int) -> dict[str, Any]:
    """One pair, as evidence keeps it."""
    words = [f"word{number}-{at}" for at in range(WORDS)]
    changed = [*words[:3], "other", *words[4:]]
    return {
        "clean": " ".join(words),
        "corrupted": " ".join(changed),
        "correct": " right",
        "wrong": " wrong",
        "fact": f"fact-{number}",
        "roles": ["before"] * 3 + ["subject_last"] + ["relation"] * 7 + ["last"],
        "words": words,
        "corrupted_words": changed,
        "differing": [3],
        "clean_metric": 4.0,
        "corrupted_metric": -4.0,
        "given_back": float(random.normal(4, 1)),
        "taken_away": float(random.normal(4, 1)),
        "held_out": number % 2 == 0,
    }


def example(random: np.random.Generator, number: int) -> dict[str, Any]:
    """A question with its own map, word by word."""
    asked = question(random, number)
    names = (
        "fact",
        "clean",
        "corrupted",
        "correct",
        "wrong",
        "words",
        "corrupted_words",
        "differing",
        "clean_metric",
        "corrupted_metric",
    )
    drawn = {"values": cells(random, WORDS), "structural": [[False] * WORDS] * LAYERS}
    return {name: asked[name] for name in names} | {"maps": {"denoise": drawn, "noise": drawn}}


def evidence(number: int) -> Evidence:
    """The evidence of one candidate."""
    random = np.random.default_rng(number)
    layer, role = number % LAYERS, ROLES[number // LAYERS % len(ROLES)]
    return Evidence(
        {
            "study_id": f"study-{number // (LAYERS * len(ROLES))}",
            "checkpoint": "base",
            "model": "m" * 64,
            "load": "models/made",
            "domain": "made",
            "language": "en",
            "kind": "definitional",
            "metric": "logit_diff",
            "unit": "logits",
            "gap_floor": 0.5,
            "confidence": 0.95,
            "site": f"blocks.{layer}.mlp_out@{role}",
            "component": "mlp_out",
            "layer": layer,
            "role": role,
            "recovery": share(random, 0.6),
            "damage": share(random, 0.5),
            "nulls": {"permuted": share(random, 0.0), "random-init": share(random, 0.0)},
            "damage_nulls": {"random-init": share(random, 0.0)},
            "nulls_absent": {"before": "off"},
            "verdict": {"word": "undetermined", "grade": "D", "reasons": [], "why_not_stronger": []},
            "maps": {"denoise": effect_map(random), "noise": effect_map(random)},
            "stability": None,
            "direct": None,
            "robustness": [],
            "metrics": [],
            "heads": None,
            "examples": [example(random, 0), example(random, 1)],
            "pairs": [question(random, each) for each in range(PAIRS)],
        }
    )


def queued(app: Any, start: int, end: int) -> list[str]:
    """The ids of the next candidates, which are in the queue."""
    batch = [evidence(number) for number in range(start, min(start + BATCH, end))]
    put(app.state.database, batch, by="benchmark")
    return [each.candidate for each in batch]


def timed(ask: Callable[[], int], asks: int) -> str:
    """Median, 95th percentile and longest of some requests, in milliseconds."""
    ask()
    spans = []
    for _ in range(asks):
        start = time.perf_counter()
        status = ask()
        spans.append(1000 * (time.perf_counter() - start))
        if status != 200:
            raise ValueError(f"the page was answered by {status}")
    late = statistics.quantiles(spans, n=20)[-1]
    return f"{statistics.median(spans):.0f} | {late:.0f} | {max(spans):.0f}"


def signed_in(app: Any) -> TestClient:
    """A browser of a lead."""
    database = app.state.database
    admin = accept(database, first_token(database) or "", "root", "a long password")
    lead = accept(database, invite(database, admin, "lead"), "lead", "a long password")
    cookies = {"patchlight_session": sessions.begin(database, lead)}
    return TestClient(app, base_url=ORIGIN, cookies=cookies, headers={"Origin": ORIGIN}, follow_redirects=False)


def rows(browser: TestClient, candidates: list[str], asks: int) -> Iterator[tuple[str, str]]:
    """What was asked for, and how long it took."""
    turn = iter(range(10**9))

    def one(ending: str) -> Callable[[], int]:
        step = max(1, len(candidates) // asks)
        return lambda: browser.get(f"/candidates/{candidates[next(turn) * step % len(candidates)]}{ending}").status_code

    last = len(candidates) - 100
    yield "list", timed(lambda: browser.get("/queue").status_code, asks)
    yield "list, last page", timed(lambda: browser.get(f"/queue?start={last}").status_code, asks)
    yield "list, one standing", timed(lambda: browser.get("/queue?standing=open").status_code, asks)
    yield "list as JSON", timed(lambda: browser.get("/queue.json").status_code, asks)
    yield "evidence, each time another", timed(one(""), asks)
    yield "evidence in Japanese", timed(one("?lang=ja"), asks)
    yield "evidence as JSON", timed(one(".json"), asks)
    csrf = re.search(r'name="csrf" value="(\w+)"', browser.get("/queue").text)
    fields = {"csrf": csrf[1] if csrf else ""}
    yield "next (holds a candidate)", timed(lambda: browser.post("/queue/next", data=fields).status_code - 103, asks)


def main() -> None:
    """A table for docs/validation/workbench.md is printed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=10_000)
    parser.add_argument("--asks", type=int, default=40)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        app = create_app(Path(folder))
        made = [name for start in range(0, chosen.candidates, BATCH) for name in queued(app, start, chosen.candidates)]
        size = (Path(folder) / "patchlight.sqlite").stat().st_size / 1e6
        print(f"{platform.machine()}, Python {platform.python_version()}, {len(made)} candidates, {size:.0f} MB")
        print("| request | median ms | 95th percentile | longest |\n|---|---|---|---|")
        for name, spans in rows(signed_in(app), made, chosen.asks):
            print(f"| {name} | {spans} |", flush=True)
        app.state.database.dispose()
    print(f"promised: list under {PROMISED['list']} ms, evidence under {PROMISED['evidence']} ms")


if __name__ == "__main__":
    main()
