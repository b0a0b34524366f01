"""Commands that come before a study: init, doctor."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata, resources
from pathlib import Path
from typing import Annotated, Any

import typer

from patchlight.cli.phrases import PHRASES
from patchlight.cli.terminal import Terminal, command
from patchlight.errors import EnvironmentProblem, GateFailed, InputError

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "gguf", "scipy")
FREE_GIGABYTES = 2.0  # a demo's workspace takes about a tenth of it


@command
def init(
    terminal: Terminal,
    folder: Annotated[Path, typer.Argument(help="A new folder for the study.", show_default=False)],
) -> Mapping[str, Any]:
    """Write a first study and its pack into a new folder, ready to run and to change."""
    if folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]):
        raise InputError(
            "init-folder-taken", "there is already something here", where=str(folder), fix="name a new folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for entry in sorted((resources.files("patchlight.study") / "starter").iterdir(), key=lambda entry: entry.name):
        file = folder / entry.name
        file.write_text(entry.read_text(encoding="utf-8"), encoding="utf-8")
        written.append(file)
    terminal.say(PHRASES[terminal.language]["started"].format(folder=folder, study=folder / "study.yaml"))
    return {"files": written}


@command
def doctor(
    terminal: Terminal,
    model: Annotated[str | None, typer.Option("--model", help="Also prove this model's identities.")] = None,
    dtype: Annotated[str, typer.Option(help="Number format: float32, float64, bfloat16, float16.")] = "float32",
    device: Annotated[str, typer.Option(help="Where the model runs: cpu, cuda, cuda:1, mps.")] = "cpu",
    adapter: Annotated[str | None, typer.Option(help="LoRA adapter over the model: folder or hub id.")] = None,
    like: Annotated[
        str | None, typer.Option(help="Try the table entry of this model type, for a type that has none.")
    ] = None,
) -> Mapping[str, Any]:
    """Check this machine, and with --model prove that a model can be patched exactly."""
    machine = _machine()
    for name, value in machine.items():
        terminal.say(f"{name:14} {value}")
    if machine["free disk"] < FREE_GIGABYTES:
        raise EnvironmentProblem(
            "doctor-disk",
            f"only {machine['free disk']} GB are free here",
            where=str(Path.cwd()),
            fix="free some space",
        )
    if not model:
        return {"machine": machine, "identities": []}
    identities = _prove(terminal, model, like, dtype=dtype, device=device, adapter=adapter)
    return {"machine": machine, "identities": identities}


def _machine() -> dict[str, Any]:
    installed = {name: metadata.version(name) for name in PACKAGES}
    import torch

    devices = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "patchlight": metadata.version("patchlight"),
        "python": platform.python_version(),
        **installed,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "devices": " ".join([*devices, "mps"] if torch.backends.mps.is_available() else devices),
        "memory": round(memory, 1),
        "free disk": round(shutil.disk_usage(Path.cwd()).free / 2**30, 1),
    }


def _prove(terminal: Terminal, source: str, like: str | None, **options: Any) -> list[dict[str, Any]]:
    from patchlight.model.load import load_model
    from patchlight.trace.identities import prove

    loaded = load_model(source, family=_entry(like), **options)
    terminal.say(repr(loaded))
    identities = prove(loaded)
    for each in identities:
        mark = "ok  " if each.held else "FAIL"
        terminal.say(f"{mark} {each.name:52} {each.error:.1e}  (limit {each.limit:.0e})")
    broken = [each.name for each in identities if not each.held]
    if broken:
        raise GateFailed(
            "identity-broken",
            f"{source}: {', '.join(broken)}",
            fix="this entry of FAMILIES does not fit the model; docs/guide/models.md says how to find one",
        )
    if like:
        terminal.say(PHRASES[terminal.language]["entry"].format(kind=loaded.config.model_type, like=like))
    return [asdict(each) for each in identities]


def _entry(like: str | None) -> Any:
    """The table's entry of a model type, None where none is named."""
    from patchlight.model.families import FAMILIES

    if like is None or like in FAMILIES:
        return FAMILIES.get(like or "")
    raise InputError(
        "doctor-unknown-family", f"the table has no entry '{like}'", fix=f"use one of: {', '.join(sorted(FAMILIES))}"
    )
