"""What a text says, letter by letter: whether it mentions a phrase, and letters of an odd width."""

from __future__ import annotations

import re

_ODD_WIDTH = re.compile("[\uff66-\uff9f\uff10-\uff19\uff21-\uff3a\uff41-\uff5a]")


def mentions(text: str, phrase: str) -> bool:
    """True where the phrase stands in the text as a word, whatever the case.

    Word borders count at letters that have case and at digits; Japanese, Chinese and others write no spaces.
    """
    phrase = phrase.strip()
    left = r"(?<!\w)" if _bounded(phrase[:1]) else ""
    right = r"(?!\w)" if _bounded(phrase[-1:]) else ""
    return bool(phrase) and re.search(left + re.escape(phrase) + right, text, re.IGNORECASE) is not None


def _bounded(character: str) -> bool:
    return character.isdigit() or character.lower() != character.upper()


def odd_width(text: str) -> str:
    """The half-width kana and the full-width digits and letters of a text, in order."""
    return "".join(_ODD_WIDTH.findall(text))
