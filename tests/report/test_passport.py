"""Every report shows the passport of its version, in both languages, and says when it is old."""

from __future__ import annotations

from typing import Any

import pytest

from patchlight.report import passport
from patchlight.report.texts import read_texts
from patchlight.verify.passport import shipped


@pytest.mark.parametrize("language", ["en", "ja"])
def test_each_rate_has_its_count_and_its_interval(language: str) -> None:
    part = passport.rows_of(read_texts(language))
    assert len(part.rows) == len(passport.SHOWN)
    for name, (question, count, interval) in zip(passport.SHOWN, part.rows, strict=True):
        rate = shipped()["rates"][name]
        assert question
        assert str(rate["count"]) in count and str(rate["n"]) in count
        assert f"{100 * rate['high']:.1f}" in interval


def test_a_passport_made_with_other_code_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    old: dict[str, Any] = {**shipped(), "code": "of another day"}
    monkeypatch.setattr(passport, "shipped", lambda: old)
    assert passport.rows_of(read_texts("en")).old
