"""Which texts are nearly the same: MinHash signatures (datasketch), compared where they share a band.

The similarity of two texts is the share of runs of five words that they have in common (Jaccard), estimated from
128 permutations: its standard error is at most 0.044. Two texts are compared where they agree in one of 32 bands
of 4: found with a probability of 0.87 at a similarity of 0.5, 0.99 at 0.6, above 0.9999 at 0.8.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from datasketch import MinHash
from jaxtyping import Bool, Float, Int, UInt32, UInt64
from numpy import ndarray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

BANDS, ROWS = 32, 4
SHINGLE = 5  # words; characters where a text has no spaces
WORD = re.compile(r"\w+")
LONG_WORD = 12  # characters a word on average: above it, the text is written without spaces
SENTENCE_END = re.compile(r"[.!?]\s|[。！？\n]")
LONG_SENTENCE = 80  # characters: two texts that share one have a passage in common
COMMON_SENTENCE = 5  # documents: a sentence in more of them is a formula of the trade
CHUNK = 1 << 15

_empty = MinHash(num_perm=BANDS * ROWS, seed=1, hashfunc=zlib.crc32)


def signature(text: str) -> UInt32[ndarray, "permutation"]:
    """The MinHash values of the runs of five words in a text that `clean.compared` gave."""
    words: Sequence[str] = WORD.findall(text)
    joint = " "
    if len(text) > LONG_WORD * len(words):
        words, joint = text, ""
    runs = {joint.join(words[at : at + SHINGLE]).encode() for at in range(max(1, len(words) - SHINGLE + 1))}
    sketch = _empty.copy()
    sketch.update_batch(runs)
    return np.asarray(sketch.hashvalues, dtype=np.uint32)


def sentence_keys(text: str) -> UInt64[ndarray, "sentence"]:
    """One number for each sentence of 80 characters or more; equal sentences have equal numbers."""
    long = {part.strip() for part in SENTENCE_END.split(text) if len(part) >= LONG_SENTENCE}
    keys = (int.from_bytes(blake2b(part.encode(), digest_size=8).digest()) for part in long)
    return np.fromiter(keys, dtype=np.uint64, count=len(long))


def similar_pairs(
    signatures: UInt32[ndarray, "document permutation"], threshold: float
) -> tuple[Int[ndarray, "pair 2"], Float[ndarray, "pair"]]:
    """The pairs (earlier, later) of documents that are at least so similar, and their similarity, by the later one.

    In a band that many documents share, each is compared with the one before it and with the first.
    """
    odd = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5], dtype=np.uint64)
    found = [np.empty(0, dtype=np.int64)]
    for band in range(BANDS):
        keys = (signatures[:, band * ROWS : (band + 1) * ROWS] * odd).sum(axis=1, dtype=np.uint64)
        pairs = _neighbours(keys)
        found.append(pairs[:, 0] * len(signatures) + pairs[:, 1])
    candidates = np.unique(np.concatenate(found))
    pairs = np.stack(np.divmod(candidates, max(1, len(signatures))), axis=1)
    likeness = np.concatenate(
        [np.empty(0), *(_likeness(signatures, pairs[at : at + CHUNK]) for at in range(0, len(pairs), CHUNK))]
    )
    kept = likeness >= threshold
    order = np.lexsort((pairs[kept, 0], pairs[kept, 1]))
    return pairs[kept][order], likeness[kept][order]


def near_duplicates(pairs: Int[ndarray, "pair 2"], documents: int) -> Int[ndarray, "document"]:
    """For each document the earlier kept one that it nearly equals, or -1 where it is kept itself."""
    like = np.full(documents, -1, dtype=np.int64)
    for earlier, later in pairs:  # by the later one: whether the earlier one is kept is known by then
        if like[earlier] < 0 and like[later] < 0:
            like[later] = earlier
    return like


def families(
    documents: int, pairs: Int[ndarray, "pair 2"], keys: UInt64[ndarray, "key"], owners: Int[ndarray, "key"]
) -> Int[ndarray, "document"]:
    """The family of each document: all that hang together by `pairs`, or by a key that two to five of them own."""
    order = np.argsort(keys, kind="stable")
    starts, sizes = _runs(keys[order])
    shared = np.repeat((sizes > 1) & (sizes <= COMMON_SENTENCE), sizes)
    first = owners[order[np.repeat(starts, sizes)]][shared]
    links = np.concatenate([pairs, np.stack([first, owners[order][shared]], axis=1)])
    graph = coo_array((np.ones(len(links)), (links[:, 0], links[:, 1])), shape=(documents, documents))
    labels: Int[ndarray, "document"] = connected_components(graph, directed=False)[1]
    return labels


def _neighbours(keys: UInt64[ndarray, "document"]) -> Int[ndarray, "pair 2"]:
    """Pairs of documents with equal keys: each with the one before it and with the first of its run."""
    order = np.argsort(keys, kind="stable")
    starts, sizes = _runs(keys[order])
    first = np.repeat(starts, sizes)
    at = np.arange(len(keys))
    chained, starred = at[at > first], at[at > first + 1]
    earlier = np.concatenate([order[chained - 1], order[first[starred]]])
    return np.stack([earlier, np.concatenate([order[chained], order[starred]])], axis=1)


def _runs(ordered: UInt64[ndarray, "key"]) -> tuple[Int[ndarray, "run"], Int[ndarray, "run"]]:
    """Where each run of equal keys begins, and its length."""
    begins: Bool[ndarray, "key"] = np.ones(len(ordered), dtype=bool)
    begins[1:] = ordered[1:] != ordered[:-1]
    starts = np.flatnonzero(begins)
    return starts, np.diff(starts, append=len(ordered))


def _likeness(
    signatures: UInt32[ndarray, "document permutation"], pairs: Int[ndarray, "pair 2"]
) -> Float[ndarray, "pair"]:
    shares: Float[ndarray, "pair"] = (signatures[pairs[:, 0]] == signatures[pairs[:, 1]]).mean(axis=1)
    return shares
