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
    rates = [shipped()["rates"][name] for name in passport.SHOWN]
    rates += [shipped()["activations"]["rates"][name] for name in passport.ON_MAPS]
    for rate, (question, count, interval) in zip(rates, part.rows, strict=True):
        assert question
        assert str(rate["count"]) in count and str(rate["n"]) in count
        assert f"{100 * rate['high']:.1f}" in interval


def test_a_passport_made_with_other_code_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    old: dict[str, Any] = {**shipped(), "code": "of another day"}
    monkeypatch.setattr(passport, "shipped", lambda: old)
    assert passport.rows_of(read_texts("en")).old
