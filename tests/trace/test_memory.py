"""A sweep in a process that may not have the memory it is told of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("out_of_memory.py")


def swept_with(mebibytes: int) -> str:
    """What the script says in a process of its own: memory that another sweep gave back could be used again."""
    done = subprocess.run([sys.executable, str(SCRIPT), str(mebibytes)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the limit of a process's memory is set as Linux does")
def test_where_memory_runs_out_half_of_it_is_tried_and_then_it_is_said() -> None:
    """How much is enough depends on the machine's kernels, so what is told is that no limit ends in anything else."""
    batches = []
    for said in map(swept_with, (20, 130, 140, 160, 200)):
        number, _, rest = said.partition(" ")
        if said != "trace-out-of-memory":
            batches.append(int(number))
            assert rest == "batches, 199 pairs, right: True"
    assert 1 <= len(batches) < 5
    assert max(batches) > 1
