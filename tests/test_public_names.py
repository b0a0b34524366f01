"""The package's public names are exact, and importing it costs nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import patchlight


def test_the_public_names_are_exactly_these() -> None:
    assert patchlight.__all__ == [
        "AcrossEffects", "Attribution", "Corruption", "DirectIndirect", "Effects", "Illusion", "Model", "Pair",
        "PatchlightError", "PathEffects", "SelfRepair", "SetEffects", "Site", "StepEffects", "Subspace",
        "SubspaceEffects", "TokenPair", "WeightEffects", "WindowEffects", "align", "attention_patterns", "attribute",
        "audit", "backups", "effects", "find_subspaces", "load_model", "logit_lens", "patch", "patch_across",
        "patch_subspaces", "patch_weights", "paths", "prove", "random_init", "read_site", "robustness", "save_model",
        "screen", "screen_sites", "self_repair", "sweep", "sweep_steps", "sweep_windows", "sweeps",
    ]  # fmt: skip
    assert all(getattr(patchlight, name) is not None for name in patchlight.__all__)


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, patchlight; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_thing_not_measured_has_its_sentence() -> None:
    from patchlight.report.texts import read_texts
    from patchlight.study.findings import NOT_MEASURED

    for language in ("en", "ja"):
        texts = read_texts(language)
        assert all(texts(f"unknown.{code}") for code in NOT_MEASURED)


def test_no_module_takes_the_place_of_a_public_name() -> None:
    modules = {file.stem for file in Path(patchlight.__file__).parent.iterdir()}
    assert modules & set(patchlight.__all__) == set()
