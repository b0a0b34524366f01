"""A commented pack to begin with, in English or Japanese."""

from __future__ import annotations

from importlib import resources

from patchlight.packs.problem import Language


def skeleton(language: Language) -> str:
    """The text of a small pack that checks clean, with a comment on every key."""
    return (resources.files("patchlight.packs") / "blank" / f"{language}.yaml").read_text(encoding="utf-8")
