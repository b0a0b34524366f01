"""Would the same places be named otherwise: a table for each verdict, a row for each source of variation."""

from __future__ import annotations

from collections.abc import Sequence

from patchlight.records import Site
from patchlight.report.charts import percent
from patchlight.report.contents import Checkpoint
from patchlight.report.robustness import correlation_words
from patchlight.report.tables import Table
from patchlight.report.texts import Texts, site_words
from patchlight.verify.stability import JACCARD_BAR, Stability

NAMED = 3  # sites that come or go, in words
COLUMNS = ("source", "overlap", "reading", "going", "coming")


def stability_table(checkpoint: Checkpoint, found: Stability, texts: Texts) -> Table:
    """The overlaps with their intervals, and the places that come and go most often."""
    rows = [
        (
            texts(f"stability_source.{each.source}"),
            correlation_words(each.jaccard, texts),
            texts("stability.stable" if each.stable else "stability.unstable"),
            _places(found.going(each), texts),
            _places(found.coming(each), texts),
        )
        for each in found.variations
    ]
    title = texts("stability.title", checkpoint=texts.pick(checkpoint.name), sites=len(found.sites), bar=JACCARD_BAR)
    return Table(title, [texts(f"stability.{name}_column") for name in COLUMNS], rows)


def _places(found: Sequence[tuple[Site, float]], texts: Texts) -> str:
    named = [texts("stability.place", site=site_words(site, texts), share=percent(share)) for site, share in found]
    return texts("sets.semicolon").join(named[:NAMED]) or texts("page.none")
