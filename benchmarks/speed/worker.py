"""A peer in a process of its own, in its own environment: one job a line in, one answer a line out.

python -m benchmarks.speed.worker PEER FOLDER DEVICE DTYPE THREADS
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from benchmarks.speed.work import Place, Prompts

ROOT = Path(__file__).parents[2]
OWN_ENVIRONMENT = ("transformer_lens", "nnsight")
DISTRIBUTIONS = ("torch", "transformers", "transformer-lens", "nnsight", "patchlight")


def python_of(peer: str) -> str | None:
    """The Python that a peer runs in, None where its environment has not been made.

    `PATCHLIGHT_TRANSFORMER_LENS_PYTHON` and `PATCHLIGHT_NNSIGHT_PYTHON` name another than those of `make parity`.
    """
    if peer not in OWN_ENVIRONMENT:
        return sys.executable
    made = ROOT / ".venv-bench" / peer / "bin" / "python"
    named = os.environ.get(f"PATCHLIGHT_{peer.upper()}_PYTHON")
    return named or (str(made) if made.exists() else None)


@dataclass(frozen=True)
class Answer:
    """What a peer measured: `values[place][pair]`, seconds of its two steps, and its peak memory.

    Memory is in MiB above the level with the model loaded, None where the system does not tell.
    """

    values: list[list[float]]
    capture_seconds: float
    replace_seconds: float
    peak_mib: float | None


class Worker:
    """A peer's process. Raises RuntimeError with the end of its error output where it cannot start or answer."""

    def __init__(
        self, python: str, peer: str, folder: Path, *, device: str = "cpu", dtype: str = "float32", threads: int = 2
    ) -> None:
        self.peer = peer
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 -- closed with the process
        command = [python, "-m", "benchmarks.speed.worker", peer, str(folder.resolve()), device, dtype, str(threads)]
        quiet = {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false"}
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ, **quiet, "OMP_NUM_THREADS": str(threads)},
        )
        hello = self._read()
        self.a_forward_each: bool = hello["a_forward_each"]
        self.versions: dict[str, str] = hello["versions"]

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, prompts: Prompts, places: Sequence[Place]) -> Answer:
        """The peer's answer to this work."""
        print(json.dumps({"prompts": asdict(prompts), "places": places}), file=self._process.stdin, flush=True)
        return Answer(**self._read())

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()
        self._errors.close()

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            self._process.wait()
            self._errors.seek(0)
            end = self._errors.read()[-3000:]
            self.close()
            raise RuntimeError(f"the process of {self.peer} ended:\n{end}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def serve(peer: str, folder: str, device: str, dtype: str, threads: int) -> None:
    """Loads the peer, then answers jobs until its input closes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print: the channel of answers stays clean
    import torch

    from benchmarks.speed.peers import PEERS

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    loaded = PEERS[peer](folder, device, getattr(torch, dtype))
    torch.set_num_threads(threads)  # some libraries set it while they are imported
    _say(answers, {"a_forward_each": loaded.a_forward_each, "versions": _versions()})
    for line in sys.stdin:
        job = json.loads(line)
        places = [Place(*place) for place in job["places"]]
        _say(answers, asdict(_measure(loaded, device, Prompts(**job["prompts"]), places)))


def _measure(peer: Any, device: str, prompts: Prompts, places: Sequence[Place]) -> Answer:
    level = _start_of_peak(device)
    times = [_now(device)]
    captured = peer.capture(prompts, sorted({place.component for place in places}))
    times.append(_now(device))
    values = peer.replace(captured, places)
    times.append(_now(device))
    peak = None if level is None else _peak(device) - level
    return Answer(values.tolist(), times[1] - times[0], times[2] - times[1], peak)


def _now(device: str) -> float:
    import torch

    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def _start_of_peak(device: str) -> float | None:
    """The memory in use in MiB, from which on the peak counts anew; None where the system has no such counter."""
    if device != "cpu":
        import torch

        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: resets VmHWM
    except OSError:
        return None
    return _status("VmRSS")


def _peak(device: str) -> float:
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    return _status("VmHWM")


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def _versions() -> dict[str, str]:
    from importlib.metadata import distributions

    found = {one.name.lower(): one.version for one in distributions()}
    return {name: found[name] for name in DISTRIBUTIONS if name in found}


def _say(answers: TextIO, what: dict[str, Any]) -> None:
    print(json.dumps(what), file=answers, flush=True)


if __name__ == "__main__":
    serve(*sys.argv[1:5], int(sys.argv[5]))
