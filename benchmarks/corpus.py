"""How long `patchlight corpus prepare` takes, what memory, and how many planted duplicates it finds.

    python benchmarks/corpus.py SOURCE... [--documents 100000] [--folder FOLDER]

SOURCE are files of real texts. Documents are made from them: in each, three words in ten are replaced by words of the
sources, so that no two are near-duplicates; one in a hundred is an exact copy of an earlier one in capitals, and
one in twenty differs from an earlier one by one word. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from patchlight.corpus.files import read_documents

REPLACED, EXACT, NEAR = 0.3, 0.01, 0.05
EARLIER = 1000  # originals of which copies are made
TERMS = ("epilepsy", "EEG", "seizure")


def documents(sources: Sequence[Path], number: int) -> Iterator[dict[str, str]]:
    """The documents, whose ids begin with what they are: `new`, `exact`, `near`."""
    chance = random.Random(1)
    texts = [document.text.split(" ") for document in read_documents(sources)]
    vocabulary = [word for words in texts[:2000] for word in words]
    recent: list[list[str]] = []
    for n in range(number):
        drawn = chance.random() if len(recent) == EARLIER else 1.0
        if drawn < EXACT:
            yield {"id": f"exact-{n}", "text": " ".join(chance.choice(recent)).upper()}
        elif drawn < EXACT + NEAR:
            words = list(chance.choice(recent))
            words[chance.randrange(len(words))] = "otherwise"
            yield {"id": f"near-{n}", "text": " ".join(words)}
        else:
            words = [
                chance.choice(vocabulary) if chance.random() < REPLACED else word for word in texts[n % len(texts)]
            ]
            # Copies of short texts differ by more than a fifth: they would not be near-duplicates.
            if len(words) >= 100:
                recent = [*recent[-EARLIER + 1 :], words]
            yield {"id": f"new-{n}", "text": " ".join(words)}


def measure(source: Path, folder: Path) -> dict[str, float]:
    """Seconds and memory of the command in a process of its own."""
    command = [sys.executable, "-m", "patchlight.cli.main", "corpus", "prepare", str(source), "--out", str(folder)]
    command += [part for term in TERMS for part in ("--term", term)]
    begun = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall = time.monotonic() - begun
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "wall_seconds": round(wall, 1),
        "processor_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_memory_mib": round(used.ru_maxrss / 1024),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", type=Path)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, default=None)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as temporary:
        source, folder = Path(temporary, "made.jsonl"), Path(temporary, "prepared")
        counts = {"new": 0, "exact": 0, "near": 0}
        with source.open("w", encoding="utf-8") as stream:
            for row in documents(asked.sources, asked.documents):
                counts[row["id"].partition("-")[0]] += 1
                stream.write(json.dumps(row) + "\n")
        measured = measure(source, folder)
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        kept = [document.id.partition("-")[0] for document in read_documents([folder])]
        told = {
            "documents": counts,
            "input_mib": round(source.stat().st_size / 2**20),
            **measured,
            "load_average": [round(load, 1) for load in os.getloadavg()],
            "kept": {kind: kept.count(kind) for kind in counts},
            "dropped": {reason: each["count"] for reason, each in card["dropped"].items()},
            "largest_family": card["largest_family"],
        }
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
