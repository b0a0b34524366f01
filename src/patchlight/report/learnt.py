"""What training did, in two tables: losses that can and cannot be compared, and facts answered before and after."""

from __future__ import annotations

from collections.abc import Sequence

from patchlight.judge.shares import Share
from patchlight.report.charts import percent
from patchlight.report.contents import Checkpoint, Learnt
from patchlight.report.tables import Table, losses_in_words
from patchlight.report.texts import Texts


def losses_table(checkpoints: Sequence[Checkpoint], texts: Texts) -> Table | None:
    """Both validation losses before training and at the step that was kept; None where nothing was trained."""
    rows = []
    for checkpoint in checkpoints:
        if checkpoint.training:
            padding = "padding_counted" if checkpoint.training.padding_in_loss else "padding_left"
            before, kept = (losses_in_words(point) for point in checkpoint.training.ends())
            changes = (f"{then} → {now}" if then else "" for then, now in zip(before[1:], kept[1:], strict=True))
            rows.append((texts.pick(checkpoint.name), texts(f"training.{padding}"), *changes))
    header = [texts(f"training.{column}") for column in ("model", "counted", "own", "comparable", "perplexity")]
    return Table(texts("training.both"), header, rows) if rows else None


def learnt_table(checkpoints: Sequence[Checkpoint], texts: Texts) -> Table | None:
    """Facts answered before and after training, by kind, with exact intervals and McNemar's p; None where none was."""
    rows = [_learnt(checkpoint, each, texts) for checkpoint in checkpoints for each in checkpoint.learnt]
    names = ("model", "kind", "facts_before", "facts_after", "gained", "lost", "p")
    return Table(texts("training.learnt"), [texts(f"training.{name}") for name in names], rows) if rows else None


def _learnt(checkpoint: Checkpoint, each: Learnt, texts: Texts) -> tuple[str, ...]:
    named = (texts.pick(checkpoint.name), texts.word("kind", each.kind))
    if each.before is None:
        return (*named, "", _share(each.after, texts), "", "", "")
    p = f"{each.p:.3f}" if each.p >= 0.001 else "< 0.001"
    return (*named, _share(each.before, texts), _share(each.after, texts), str(each.gained), str(each.lost), p)


def _share(share: Share, texts: Texts) -> str:
    low, high = percent(share.low), percent(share.high)
    return texts("training.share", count=share.count, total=share.total, low=low, high=high)
