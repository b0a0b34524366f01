"""Keeps confidential terms of a pack out of what leaves the house."""

from __future__ import annotations

import re

from patchlight.packs.spec import Pack


def mask(pack: Pack, text: str) -> str:
    """The text with every name of a confidential term replaced by `[term 1]`, `[term 2]`, in the order of the pack."""
    for name, number in _names(pack):
        text = re.sub(re.escape(name), f"[term {number}]", text, flags=re.IGNORECASE)
    return text


def _names(pack: Pack) -> list[tuple[str, int]]:
    """Names of confidential terms with their numbers; the longest first, as one may stand in another."""
    terms = [pack.file.terms[key] for key in pack.file.confidential]
    named = [(name, n) for n, term in enumerate(terms, 1) for name in (term.en, term.ja, *term.aliases) if name]
    return sorted(named, key=lambda pair: -len(pair[0]))
