"""Ways to spoil a file: bytes cut and put in, other encodings, values of the wrong kind, special files."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from patchlight.errors import InputError

Edit = tuple[float, float, bytes]
Way = tuple[Any, ...]

PIECES = st.one_of(
    st.binary(max_size=30),
    st.sampled_from(
        [b"\x00", b"\xff\xfe", b"\n", b'"', b"{", b"[" * 3000, b"<a>", b"&x;", b"]]>", b"PMID- ", b"\r", b","]
    ),
    st.sampled_from(
        [
            b'{"text": "\\ud800"}\n',
            b'{"text": 1e999}\n',
            b'{"text":' + b"9" * 5000 + b"}\n",
            b"<!DOCTYPE a [",
            b"\x1f\x8b",
        ]
    ),
    st.sampled_from([b"- " * 2000, b"&a [*a]\n", b"? ", b"{subject}", b": ", b"|\n", b"%YAML 9.9\n", b"\xe2\x80\xa8"]),
)
EDITS = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.4), PIECES), min_size=1, max_size=4)
ENCODINGS = ["utf-16", "utf-16-le", "utf-32", "utf-8-sig", "shift_jis", "cp037", "utf-7"]

ODD: list[Any] = [
    *(None, True, False, 0, -1, 7, 2**70, 1e308, float("nan"), float("inf"), -float("inf"), 1e-320),
    *("", " ", "\x00", "{", "}", "{subject}", "{0.__class__}", "{subject!r:>99999999}", "x" * 5000, "\ud800", "a\nb"),
    *("../../../etc/passwd", "１２", "2026-01-01", "9" * 5000, "\u202e", "\u2028", "薬", "=1+1", "<script>", "~", "no"),
    *([], {}, [[]], [None], {"": None}, {"en": None}, [{"en": "x"}] * 3, ["x"] * 500, {"en": {"en": "x"}}),
    json.loads("[" * 90 + "]" * 90),
]


def spoilt(whole: bytes, edits: list[Edit]) -> bytes:
    """Parts of the file cut out, and other bytes put in their place."""
    for at, length, piece in edits:
        start = int(at * len(whole))
        whole = whole[:start] + piece + whole[start + int(length * len(whole)) :]
    return whole


def bad_bytes(whole: bytes) -> st.SearchStrategy[bytes]:
    """Files made of a whole one: edited, cut short, one bit turned, written twice, in another encoding; or random."""
    text = whole.decode("utf-8", errors="replace")
    return st.one_of(
        EDITS.map(lambda edits: spoilt(whole, edits)),
        EDITS.map(lambda edits: spoilt(whole, edits)),
        st.integers(0, len(whole)).map(lambda end: whole[:end]),
        st.integers(0, 8 * len(whole) - 1).map(lambda bit: _turned(whole, bit)),
        st.sampled_from(ENCODINGS).map(lambda name: text.encode(name, errors="replace")),
        st.sampled_from([b"", b"\n" * 9, b"\0" * 4096, whole + whole, whole.replace(b"\n", b"\r")]),
        st.binary(max_size=200),
    )


def bad_values(data: Any) -> st.SearchStrategy[Any]:
    """The data with one to three values replaced by odd ones, left out, renamed or put elsewhere."""
    ways = list(_ways(data))
    change = st.tuples(st.sampled_from(ways), st.sampled_from(["put", "put", "put", "drop", "rename", "move"]),
                       st.integers(0, len(ODD) - 1), st.sampled_from(ways))  # fmt: skip
    return st.lists(change, min_size=1, max_size=3).map(lambda changes: _changed(data, changes))


def as_json(data: Any) -> bytes:
    """The data as JSON, which is YAML as well; numbers that are not finite are written as Python and YAML do."""
    return json.dumps(data, ensure_ascii=True).encode()


def bad_paths(folder: Path, ending: str) -> dict[str, Path]:
    """What may stand in place of a file of that ending: nothing, a folder, a loop of links, a name that is too long."""
    there = {name: folder / f"{name}{ending}" for name in ("missing", "folder", "loop", "unread", "empty")}
    there["folder"].mkdir()
    there["loop"].symlink_to(there["loop"])
    there["unread"].symlink_to("/proc/self/mem")  # it opens, and fails at the first byte
    there["empty"].touch()
    return {**there, "long": folder / ("n" * 300 + ending), "under": there["empty"] / f"below{ending}"}


def refused(error: InputError, *codes: str) -> None:
    """An error that people can use: a code of its room, a place, and words that can be printed."""
    assert error.code.startswith(codes), error
    assert error.where is not None, error
    assert error.what, error
    str(error).encode()


def examples(count: int) -> settings:
    """So many examples; more with `--hypothesis-profile`."""
    most = max(count, settings.default.max_examples)
    return settings(max_examples=most, deadline=None, suppress_health_check=list(HealthCheck))


def _turned(whole: bytes, bit: int) -> bytes:
    content = bytearray(whole)
    content[bit // 8] ^= 1 << bit % 8
    return bytes(content)


def _ways(data: Any, way: Way = ()) -> Iterator[Way]:
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in inner:
        yield (*way, key)
        yield from _ways(value, (*way, key))


def _changed(data: Any, changes: list[tuple[Way, str, int, Way]]) -> Any:
    data = copy.deepcopy(data)
    for way, change, number, other in changes:
        odd = copy.deepcopy(ODD[number])
        try:
            holder = _at(data, way[:-1])
            if change == "put":
                holder[way[-1]] = odd
            elif change == "drop":
                del holder[way[-1]]
            elif change == "rename":
                holder[str(odd)[:50]] = holder.pop(way[-1])
            else:
                holder[way[-1]] = copy.deepcopy(_at(data, other))
        except (KeyError, IndexError, TypeError, AttributeError):
            continue  # an earlier change took this place away
    return data


def _at(data: Any, way: Way) -> Any:
    for key in way:
        data = data[key]
    return data
