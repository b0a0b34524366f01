from __future__ import annotations

import base64
import dataclasses
import hashlib
import re

import numpy as np
import pytest

from patchlight.errors import EnvironmentProblem
from patchlight.judge.verdict import Reason, Verdict
from patchlight.report.build import build_report, marked, render
from patchlight.report.texts import LANGUAGES, read_texts
from tests.report.page import Page, csv_of

FACTS = 18


def test_the_page_is_well_formed(page):
    assert page.open == []
    assert page.crossed == []
    assert len(page.attributes("id")) == len(set(page.attributes("id")))


def test_nothing_is_fetched_from_anywhere(page):
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object", "embed", "form", "base"}
    assert not page.attributes("src")
    assert all(href.startswith(("#", "data:text/csv", "report.")) for href in page.attributes("href"))
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_what_is_typed_is_set_as_code_and_no_backtick_is_left(page, contents):
    assert "`" not in page.words
    typed = re.findall(r"<code>(.*?)</code>", render(contents, "en"))
    assert {"controls", "max_per_kind", "sweep"} <= set(typed)


def test_no_space_parts_two_japanese_sentences(contents):
    assert not re.search(r"。[ \n]+[^\s<]", Page(render(contents, "ja")).words.replace("\n", "<"))


def test_the_policy_allows_the_one_style_and_nothing_else(contents):
    html = render(contents, "en")
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)[1]
    policy = next(a["content"] for _, a in Page(html).tags if a.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert not Page(html).attributes("style")
    assert "url(" not in style
    assert "@import" not in style


def test_sections_come_in_the_order_that_fights_over_trust(english):
    titles = [english.words.rindex(read_texts("en")(f"section.{name}")) for name in read_texts("en").listed("section")]
    assert titles == sorted(titles)
    order = read_texts("en").listed("section")
    assert order.index("profile") < order.index("map")
    assert order[:2] == ["summary", "verdict"]


def test_every_figure_has_a_caption_with_its_n_and_a_table_and_a_download(contents, english):
    html = render(contents, "en")
    figures = re.findall(r"<figure>(.*?)</figure>", html, re.DOTALL)
    assert len(figures) > 20
    for figure in figures:
        caption = re.search(r"<figcaption>(.*?)</figcaption>", figure, re.DOTALL)[1]
        assert re.search(r"\d+ facts, \d+ question pairs|n = 1 pair|training texts", caption)
        assert "<table>" in figure
        assert 'href="data:text/csv' in figure
    assert len([a for t, a in english.tags if t == "svg" and a["aria-label"]]) == html.count("<svg")


def test_the_download_holds_exactly_the_numbers_of_the_map(contents, english):
    rows = csv_of(english, "map-definitional-mlp-out.csv")
    effects = next(
        m for m in contents.checkpoints[1].kinds[0].maps if (m.component, m.direction) == ("mlp_out", "noise")
    )
    found = {
        (int(row["layer"]), row["role"]): row
        for row in rows
        if (row["model"], row["direction"]) == ("Configuration II", "noise")
    }
    assert len(found) == effects.effect.estimate.size
    for layer, column in np.ndindex(*effects.effect.estimate.shape):
        row = found[layer, effects.roles[column]]
        value = effects.effect.estimate[layer, column]
        assert row["estimate"] == ("" if np.isnan(value) else f"{value:.6g}")
        assert int(row["facts"]) == effects.effect.n[layer, column]
        assert row["passes_threshold"] == str(int(effects.significant[layer, column]))


def test_the_matrix_says_in_words_which_choices_name_other_places(english):
    assert (
        "Other places are named with: subject set to zero with logit difference, subject set to zero" in english.words
    )
    assert "The same places, for the most part, are named with: another subject with divergence" in english.words
    assert "It cannot be told for: subject of another question with logit difference" in english.words
    assert "the corruption does not turn the answer over: 15" in english.words


def test_the_download_holds_exactly_the_numbers_of_the_matrix(contents, english):
    made = contents.checkpoints[0].kinds[0].robustness[0]
    rows = csv_of(english, "robustness-configuration-i-definitional-mlp-out.csv")
    assert len(rows) == len(made.cells) == 8
    for row, cell in zip(rows, made.cells, strict=True):
        assert (row["corruption"], row["metric"], row["reading"]) == (cell.corruption, cell.metric, cell.reading)
        assert row["overlap_low"] == ("" if np.isnan(cell.overlap.low) else f"{cell.overlap.low:.6g}")
        assert int(row["facts"]) == cell.facts
    maps = csv_of(english, "robustness-maps-configuration-i-definitional-mlp-out.csv")
    cell = next(row for row in maps if (row["corruption"], row["layer"], row["role"]) == ("zero", "3", "last"))
    assert cell["estimate"] == f"{made.cells[4].effect[3, made.roles.index('last')]:.6g}"


def test_a_kind_without_other_choices_says_so(english):
    assert "Associative knowledge: not measured with another corruption or metric in this study." in english.words


def test_where_the_metrics_disagree_is_a_sentence_a_table_and_a_download(contents, english):
    cell = contents.checkpoints[0].kinds[0].metrics[0].cells[1]
    words = (
        f"{cell.correlation.estimate:.2f} ({cell.correlation.low:.2f} to {cell.correlation.high:.2f}), n\u00a0{FACTS}"
    )
    where = "divergence from the clean run (Feed-forward (MLP) output, recovery; Configuration I)"
    assert f"{where}, with a rank correlation of {words}" in english.words
    rows = csv_of(english, "metrics-definitional.csv")
    assert [(row["model"], row["metric"], row["facts"]) for row in rows] == [
        ("Configuration I", "kl", str(FACTS)),
        ("Configuration II", "kl", str(FACTS)),
    ]
    assert rows[0]["correlation"] == f"{cell.correlation.estimate:.6g}"
    assert "metrics-associative.csv" not in english.attributes("download")


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_figure_of_the_questions_has_the_unit_of_the_first_metric(contents, language):
    other = dataclasses.replace(contents, metric="prob", unit="probability", gap_floor=0.05)
    texts, page = read_texts(language), Page(render(other, language))
    unit, metric = texts("unit.probability"), texts("metric.prob")
    assert f"0.05 ({metric}, {unit})" in page.words or f"0.05 以上（{metric}、{unit}）" in page.words
    assert page.words.count(metric) >= 4  # two questions, what was left out, the glossary
    assert texts("unit.logits") + "）" not in page.words
    assert "(logits)" not in page.words


def test_the_table_shows_the_interval_of_a_cell(contents, english):
    interval = contents.checkpoints[0].kinds[0].maps[4].effect.at(1, 3)
    shown = (
        f"{100 * interval.estimate:.1f}% ({100 * interval.low:.1f}% to {100 * interval.high:.1f}%), n\u00a0{interval.n}"
    )
    assert shown in english.words


def test_the_verdict_comes_with_its_reasons_in_words(english):
    assert "Feed-forward (MLP) output, layer 1, subject end" in english.words
    assert "bring back 62% of the gap (interval 55% to 69%, 9 facts held out)" in english.words
    assert "blocks.1" not in english.words
    assert "The model answers 2 of 20 facts right in two wordings; 5 are needed." in english.words


def test_the_layers_clear_of_the_control_are_named(contents):
    effects = contents.checkpoints[0].kinds[0].maps[4]
    column = effects.roles.index("subject_last")
    low, high = np.zeros_like(effects.effect.low), np.zeros_like(effects.effect.low)
    low[[1, 3, 4, 5], column] = 0.2
    high[:, column] = 0.1
    lower = dataclasses.replace(effects.effect, high=high - 1)
    estimate = dataclasses.replace(effects.effect, low=low)
    plain = dataclasses.replace(
        effects, effect=estimate, nulls={"permuted": lower, "another-fact": dataclasses.replace(lower, high=high)},
        direction="denoise", structural=np.zeros_like(effects.structural),
    )  # fmt: skip
    point = contents.checkpoints[0]
    kinds = (dataclasses.replace(point.kinds[0], maps=(plain,), examples=()),)
    page = render(dataclasses.replace(contents, checkpoints=(dataclasses.replace(point, kinds=kinds),)), "en")
    assert "<td>1, 3–5</td><td>none; the intervals touch a control</td>" in page


def test_a_kind_without_measurements_says_so_and_draws_nothing(contents):
    nothing = tuple(
        dataclasses.replace(point, kinds=(dataclasses.replace(point.kinds[1], maps=(), examples=()),))
        for point in contents.checkpoints
    )
    words = Page(render(dataclasses.replace(contents, checkpoints=nothing), "en")).words
    assert "Nothing was measured of this kind" in words
    assert "No pair of this kind passed the screen" in words


def test_a_direction_without_a_control_claims_none(contents):
    point = contents.checkpoints[0]
    maps = tuple(dataclasses.replace(each, nulls={}) for each in point.kinds[0].maps)
    bare = dataclasses.replace(point, kinds=(dataclasses.replace(point.kinds[0], maps=maps),))
    words = Page(render(dataclasses.replace(contents, checkpoints=(bare,)), "en")).words
    assert "No control was measured in this direction." in words
    assert "lies wholly above every control" not in words


def test_a_model_that_was_not_trained_here_has_no_curve(contents):
    loaded = dataclasses.replace(contents.checkpoints[0], training=None)
    words = Page(render(dataclasses.replace(contents, checkpoints=(loaded,)), "en")).words
    assert "This model was not trained here" in words


def test_an_identity_that_failed_is_printed_as_failed(contents):
    check = dataclasses.replace(contents.checkpoints[0].checks[0], error=float("nan"))
    broken = dataclasses.replace(contents.checkpoints[0], checks=(check,))
    words = Page(render(dataclasses.replace(contents, checkpoints=(broken,)), "en")).words
    assert "1 identities that must hold were tested before measuring; 1 failed" in words


def test_the_words_that_differ_are_underlined(contents):
    parts = marked(contents.checkpoints[0].kinds[0].examples[0])
    assert parts["clean"] == ("In the clinic the drug ", "carbamazepine", " works mainly by blocking the")
    assert parts["corrupted"][1] == "ethosuximide"


@pytest.mark.parametrize(
    ("clean", "corrupted", "differing"),
    [
        ("valproate acts", "valproic acts", ("valproate", "valproic")),
        ("首都は東京です", "首都は京都です", ("東京", "京都")),
        ("ends in Paris", "ends in Poland", ("Paris", "Poland")),
    ],
)
def test_underlining_takes_whole_words(contents, clean, corrupted, differing):
    example = dataclasses.replace(contents.checkpoints[0].kinds[0].examples[0], clean=clean, corrupted=corrupted)
    parts = marked(example)
    assert (parts["clean"][1], parts["corrupted"][1]) == differing
    assert "".join(parts["clean"]) == clean
    assert "".join(parts["corrupted"]) == corrupted


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_script_in_any_text_is_shown_and_never_run(hostile, language):
    html = render(hostile, language)
    page = Page(html)
    assert not {tag for tag, _ in page.tags} & {"script", "img"}
    assert "<script" not in html
    assert "alert(1)" in page.words
    assert "{{7*7}}" in page.words
    assert page.crossed == []
    assert all(re.fullmatch(r"[a-z0-9-]+\.csv", name) for name in page.attributes("download"))


def test_a_formula_in_a_word_is_not_one_in_the_spreadsheet(contents):
    point = contents.checkpoints[0]
    one = point.kinds[0].examples[0]
    formula = dataclasses.replace(one, words=("=cmd|'/c calc'!A1", *one.words[1:]))
    kinds = (dataclasses.replace(point.kinds[0], examples=(formula,)),)
    page = Page(render(dataclasses.replace(contents, checkpoints=(dataclasses.replace(point, kinds=kinds),)), "en"))
    assert csv_of(page, "example-configuration-i-definitional-1.csv")[0]["word"].startswith("'=")


def test_both_languages_are_written_and_link_to_each_other(contents, tmp_path):
    path = build_report(contents, tmp_path / "out")
    assert path == tmp_path / "out" / "report.html"
    assert sorted(file.name for file in path.parent.iterdir()) == ["report.html", "report.ja.html"]
    english, japanese = (Page((path.parent / name).read_text("utf-8")) for name in ("report.html", "report.ja.html"))
    assert "report.ja.html" in english.attributes("href")
    assert "report.html" in japanese.attributes("href")
    assert "二つの小型モデルにおけるてんかんの知識" in japanese.words


def test_the_same_contents_give_the_same_bytes(contents):
    assert render(contents, "ja") == render(contents, "ja")


def test_a_title_in_one_language_only_is_shown_with_its_language(contents):
    page = Page(render(dataclasses.replace(contents, title={"en": "Only English"}), "ja"))
    assert ("span", {"lang": "en"}) in page.tags
    assert "Only English" in page.words


def test_a_report_that_cannot_be_written_leaves_the_old_one(contents, tmp_path):
    (tmp_path / "report.html").mkdir()  # a folder where the page should go
    (tmp_path / "report.html" / "kept").write_text("kept")
    with pytest.raises(OSError):
        build_report(contents, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_a_folder_below_a_file_is_refused_with_a_code(contents, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentProblem) as refused:
        build_report(contents, tmp_path / "file" / "out")
    assert refused.value.code == "store-not-writable"


def test_the_parts_of_an_effect_are_said_drawn_and_given_as_a_file(contents, english):
    said = " ".join(english.words.split())
    assert "measured on those held out (5 facts, 9 question pairs)" in said
    assert (
        "Feed-forward (MLP) output, layer 1, subject end: brings back 60.0% (50.0% to 70.0%), n 5; 0% goes straight"
        in said
    )
    section = re.search(r'<section id="paths".*?</section>', render(contents, "en"), re.DOTALL)[0]
    # What works against a place is drawn to the left of nought, what is missing up to 100 % as an outline.
    assert "attention output, layer 3, last word: through later parts −20.0%" in section.lower()
    assert "not brought back 70.0%" in section
    rows = csv_of(english, "direct-configuration-i-definitional.csv")
    assert [(row["place"], row["part"], row["estimate"]) for row in rows][4:6] == [
        ("blocks.3.attn_out@last", "total", "0.3"),
        ("blocks.3.attn_out@last", "direct", "0.5"),
    ]


def test_who_speaks_is_not_said_where_nothing_is_told_from_nought(contents):
    point = contents.checkpoints[0]
    found = point.kinds[0].direct
    unsure = dataclasses.replace(found.parts, low=found.parts.low - 1)
    kind = dataclasses.replace(point.kinds[0], direct=dataclasses.replace(found, parts=unsure))
    with_it, without = (
        render(dataclasses.replace(contents, checkpoints=(dataclasses.replace(point, kinds=(each,)),)), "en")
        for each in (point.kinds[0], kind)
    )
    texts = read_texts("en")
    assert texts("paths.way") in with_it
    assert not any(texts(f"paths.{told}") in without for told in ("itself", "way", "both"))


def test_candidates_that_could_not_be_looked_for_are_not_said_to_have_failed(contents):
    point = contents.checkpoints[0]
    verdict = Verdict("definitional", "undetermined", "D", (Reason("no-control", {}),))
    kind = dataclasses.replace(point.kinds[0], verdict=verdict)
    page = render(dataclasses.replace(contents, checkpoints=(dataclasses.replace(point, kinds=(kind,)),)), "en")
    assert read_texts("en")("verdict.candidates_untried") in page
    assert read_texts("en")("verdict.candidates_none") not in page


def test_a_study_that_split_no_effect_says_so(contents):
    points = tuple(
        dataclasses.replace(point, kinds=tuple(dataclasses.replace(result, direct=None) for result in point.kinds))
        for point in contents.checkpoints
    )
    page = render(dataclasses.replace(contents, checkpoints=points), "en")
    assert "This study did not ask for it (<code>direct</code> under <code>sweep</code> in its file)." in page
