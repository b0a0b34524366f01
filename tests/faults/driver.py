"""A driver process with sixty small units, to be killed: `python driver.py WORKSPACE SECONDS_PER_UNIT`."""

import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

from patchlight.run.progress import Progress
from patchlight.run.units import Ran, Unit, Workplace, run_units
from patchlight.store.ledger import Ledger
from patchlight.store.results import Result

STUDY = "5" * 64
UNITS = 60


def units(log: Path, seconds: float = 0.0, size: int = 500) -> list[Unit]:
    """Sixty units with tables, tensors and folders; each writes its number into `log` when it has worked."""

    def unit(number: int) -> Unit:
        def work(place: Workplace) -> Result:
            time.sleep(seconds)
            random = np.random.default_rng(number)
            values = random.normal(size=(4, 6, size)).astype(np.float32)
            table = pd.DataFrame({"layer": range(6), "effect": values.mean(axis=(0, 2))})
            (place.folder / "model").mkdir(exist_ok=True)
            (place.folder / "model" / "weights").write_bytes(random.bytes(size))
            with log.open("a") as stream:
                stream.write(f"{number}\n")
            return Result({"n": number}, {"v": {"v": values}, "t": table, "m": place.folder / "model"})

        return Unit("sweep", f"unit {number}", {"number": number}, work)

    return [unit(number) for number in range(UNITS)]


def drive(workspace: Path, log: Path, seconds: float = 0.0, size: int = 500) -> Ran:
    """What came of the sixty units in this workspace."""
    with Ledger(workspace) as ledger, ledger.driving():
        ledger.begin_study(STUDY, "title", "yaml", "study.yaml", "study")
        return run_units(ledger, units(log, seconds, size), Progress(), study=STUDY)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    print("started", flush=True)
    drive(folder, folder.parent / "log", float(sys.argv[2]))
