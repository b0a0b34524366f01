"""A sweep in a process that may not have the memory it is told of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("out_of_memory.py")


def swept_with(mebibytes: int) -> str:
    """What the script says in a process of its own: memory that another sweep gave back could be used again."""
    command = [sys.executable, str(SCRIPT), str(mebibytes)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the limit of a process's memory is set as Linux does")
def test_where_memory_runs_out_half_of_it_is_tried_and_then_it_is_said() -> None:
    enough, too_little = (swept_with(mebibytes) for mebibytes in (200, 20))
    batches, _, rest = enough.partition(" ")
    assert int(batches) > 1
    assert rest == "batches, 199 pairs, right: True"
    assert too_little == "trace-out-of-memory"
