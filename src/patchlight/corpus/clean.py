"""A text in one form: NFC, no control characters, plain spaces; and the language that it is written in."""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import Any

# Languages of MEDLINE with a thousand records a year or so, and the larger ones of other corpora. Fewer names
# mean fewer mistakes: among all of the library's 139, short English texts now and then pass for a creole.
LANGUAGES = (
    "en de fr es it pt nl da sv no fi pl cs sk hu ro hr sr sl bg ru uk el tr he ar fa hi zh ja ko id vi th lt lv et ca"
)
READ_FOR_LANGUAGE = 500  # characters; 1000 find as many other languages in 23,158 texts and take a half longer
SURE, UNDETERMINED = 0.8, "und"
SPACES = re.compile(r"[^\S\n]+")
LINES = re.compile(r" ?\n[ \n]*")
KEPT_CONTROLS = "\n"
JOINERS = "\u200c\u200d"  # format characters that some scripts need within words


class _Invisible(dict[int, str | None]):
    """What becomes of a character, decided when it is first met: none of controls, a space of every other space."""

    def __missing__(self, code: int) -> str | None:
        character = chr(code)
        category = unicodedata.category(character)
        if category == "Zs" or character in "\t\v\f\r\x85\u2028\u2029":
            self[code] = "\n" if character in "\r\x85\u2028\u2029" else " "
        elif category in {"Cc", "Cf", "Cs"} and character not in KEPT_CONTROLS + JOINERS:
            self[code] = None
        else:
            self[code] = character
        return self[code]


_INVISIBLE = _Invisible()


def clean(text: str) -> str:
    """The text in Unicode's form NFC, without control and invisible characters, with single plain spaces.

    Line breaks stay, as structured abstracts have a section a line. NFC and not NFKC, which would write 10\u2075
    as 105 and \u00bd as 1/2: it changes what a text of science says.
    """
    seen = text.replace("\r\n", "\n").translate(_INVISIBLE)
    form = seen if seen.isascii() else unicodedata.normalize("NFC", seen)
    return LINES.sub("\n", SPACES.sub(" ", form)).strip()


def compared(text: str) -> str:
    """The text as it is compared with others: NFKC, case folded, spacing aside."""
    form = text if text.isascii() else unicodedata.normalize("NFKC", text)
    return " ".join(form.casefold().split())


def language(text: str) -> str:
    """The ISO 639 code of the language that the beginning of a text is written in, `und` where that is not sure.

    By py3langid. Tables, lists of names and very short texts are `und`.
    """
    name, probability = _identifier().classify(text[:READ_FOR_LANGUAGE])
    return str(name) if probability >= SURE else UNDETERMINED


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(LANGUAGES.split())
    return identifier
