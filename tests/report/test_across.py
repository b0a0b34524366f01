"""The section on what fine-tuning wrote: what stands out is named, the identity is grey, and no gap is said plainly."""

from __future__ import annotations

import pytest

from patchlight.report.across import COLUMNS, exchanges, rows
from patchlight.report.build import render
from patchlight.report.contents import ReportContents
from patchlight.report.texts import read_texts


@pytest.mark.parametrize("language", ["en", "ja"])
def test_the_module_that_stands_out_is_named_and_the_identity_is_grey(contents: ReportContents, language: str) -> None:
    texts = read_texts(language)
    weights, activations, nothing = exchanges(contents, "definitional", texts)[:3]
    place = texts("across.block", layer=3, part=texts("across.mlp"))
    assert weights.rows[0][0] == place
    assert place in weights.sentences[-1]
    assert weights.grey == [(texts("across.all"), weights.grey[0][1], texts("chart.by_construction"))]
    assert texts("across.all") not in [row[0] for row in weights.rows]
    assert activations.sentences[-1] == texts("across.no_control")
    assert nothing.rows == []
    assert "0.5" in nothing.sentences[-1]
    assert f'<tr class="soft"><th scope="row">{texts("across.all")}' in render(contents, language)


def test_the_download_has_every_place(contents: ReportContents) -> None:
    _, weights, nothing = contents.checkpoints[0].kinds[0].across
    table = [dict(zip(COLUMNS, row, strict=True)) for row in rows(weights)]
    assert [row["site"] for row in table] == list(weights.sites)
    assert [row["site"] for row in table if row["by_construction"]] == ["weights"]
    assert len(list(rows(nothing))) == len(nothing.sites)
