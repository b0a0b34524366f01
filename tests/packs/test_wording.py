from __future__ import annotations

import pytest

from patchlight.packs.wording import mentions, odd_width


@pytest.mark.parametrize(
    ("text", "phrase", "found"),
    [
        ("It blocks Sodium channels", " sodium", True),
        ("It blocks sodiums", "sodium", False),
        ("at 3 Hz", "3 hz", True),
        ("at 13 Hz", "3 Hz", False),
        ("日本の首都は東京です", "東京", True),
        ("日本の首都は", "東京", False),
        ("the γ-aminobutyric acid", "γ", True),
        ("a (b) c", "(b)", True),
        ("anything", "", False),
        ("anything", "  ", False),
    ],
)
def test_a_phrase_is_found_as_a_word(text: str, phrase: str, found: bool) -> None:
    assert mentions(text, phrase) is found


def test_letters_of_odd_width_are_listed() -> None:
    assert odd_width("ｶﾙバ１2Ａb") == "ｶﾙ１Ａ"
    assert odd_width("カルバマゼピン 3 Hz") == ""
