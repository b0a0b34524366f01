"""One page in three forms: HTML for people, JSON and CSV under the same address with `.json` and `.csv`."""

from __future__ import annotations

import csv
import functools
import io
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import cache, partial
from typing import Any
from urllib.parse import urlencode

import jinja2
from fastapi import Request
from fastapi.responses import HTMLResponse, Response
from fastapi.routing import APIRouter

from patchlight.report.build import coded
from patchlight.report.texts import LANGUAGES, Texts, read_texts, site_words
from patchlight.review.people import may
from patchlight.trace.sites import read_site
from patchlight.web.access import allow
from patchlight.web.texts import web_texts

LANGUAGE = "patchlight_language"
A_YEAR = 365 * 86_400
FORMULA_STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # spreadsheets look past white space, some past width


@dataclass(frozen=True)
class Page:
    """What a page says: `data` as JSON, `rows` as CSV (None: there is no table), both and `context` to the template."""

    template: str
    data: Any
    rows: Sequence[Mapping[str, Any]] | None = None
    context: Mapping[str, Any] = field(default_factory=dict)


def view(router: APIRouter, path: str, act: str) -> Callable[[Callable[..., Page]], Callable[..., Page]]:
    """Opens a function that takes `request` and returns a `Page` at `path`, `path.json` and `path.csv`."""

    def opened(work: Callable[..., Page]) -> Callable[..., Page]:
        # The longer paths first: a name in the path would take in the ending.
        for ending, form in ((".json", _json_form), (".csv", _csv_form), ("", _html_form)):
            router.get(path + ending, dependencies=[allow(act)], name=work.__name__ + ending)(_answering(work, form))
        return work

    return opened


def page(request: Request, template: str, status: int = 200, **context: Any) -> HTMLResponse:
    """The template with `context`, and with what every page has.

    `request`, `person` (None: nobody is signed in), `language`, `t` (texts of the workbench), `words` (those of the
    report), `csrf` (to be sent with every form as `csrf`), `may(act)`, `url_with(name=value, ...)`, `data_url(ending)`,
    `place(site)` in words; filter: `moment` (seconds as a time).
    """
    language = language_of(request)
    person = getattr(request.state, "person", None)
    shared: dict[str, Any] = {
        "request": request,
        "person": person,
        "language": language,
        "languages": LANGUAGES,
        "t": web_texts(language),
        "words": read_texts(language),
        "csrf": getattr(request.state, "csrf", ""),
        "may": lambda act: person is not None and may(person, act),
        "url_with": partial(url_with, request),
        "data_url": partial(data_url, request),
        "place": partial(place, words=read_texts(language)),
    }
    response = HTMLResponse(environment().get_template(template).render(shared | context), status)
    response.headers["Content-Language"] = language
    if request.query_params.get("lang") in LANGUAGES:
        response.set_cookie(LANGUAGE, language, max_age=A_YEAR, httponly=True, samesite="strict")
    return response


def as_json(data: Any, status: int = 200) -> Response:
    """The data as JSON; records by their fields, null for a number that is not finite."""
    text = json.dumps(plain(data), ensure_ascii=False, allow_nan=False, indent=1)
    return Response(text, status, media_type="application/json")


def as_csv(rows: Sequence[Mapping[str, Any]]) -> Response:
    """The rows as CSV with a header; no cell can start a formula in a spreadsheet."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([_cell(name) for name in columns])
    writer.writerows([[_cell(row.get(name)) for name in columns] for row in rows])
    headers = {"Content-Disposition": "attachment"}
    return Response(text.getvalue(), headers=headers, media_type="text/csv; charset=utf-8")


def language_of(request: Request) -> str:
    """The language of `?lang=`, else of the cookie, else the browser's first that we have, else English."""
    asked = (request.query_params.get("lang"), request.cookies.get(LANGUAGE))
    accepted = request.headers.get("accept-language", "").split(",")
    wishes = [*asked, *(each.split(";")[0].strip()[:2].lower() for each in accepted)]
    return next((wish for wish in wishes if wish in LANGUAGES), "en")


def url_with(request: Request, **changes: Any) -> str:
    """The address of this page with other values in its query; None takes a value away."""
    query = {**request.query_params, **changes}
    kept = {name: value for name, value in query.items() if value is not None}
    return request.url.path + (f"?{urlencode(kept)}" if kept else "")


def data_url(request: Request, ending: str) -> str:
    """The address of this page as ".json" or ".csv"."""
    return request.url.path.rstrip("/") + ending + (f"?{request.url.query}" if request.url.query else "")


@cache
def environment() -> jinja2.Environment:
    """What templates are rendered with; those of the report are under `report/`."""
    own = jinja2.PackageLoader("patchlight.web", "templates")
    of_report = jinja2.PrefixLoader({"report": jinja2.PackageLoader("patchlight.report", "templates")})
    made = jinja2.Environment(
        loader=jinja2.ChoiceLoader([own, of_report]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["moment"] = moment
    made.filters["coded"] = coded
    return made


def moment(seconds: float) -> str:
    """A time as people write it, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def place(site: str, words: Texts) -> str:
    """The site, or the sites of a set, in words."""
    return words("sets.semicolon").join(site_words(read_site(each), words) for each in site.split(" + "))


def plain(value: Any) -> Any:
    """The value as JSON has it."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _answering(work: Callable[..., Page], form: Callable[[Request, Page], Response]) -> Callable[..., Response]:
    @functools.wraps(work)
    def answer(request: Request, **arguments: Any) -> Response:
        return form(request, work(request=request, **arguments))

    answer.__annotations__ = {**work.__annotations__, "return": Response}
    return answer


def _html_form(request: Request, found: Page) -> Response:
    return page(request, found.template, data=found.data, rows=found.rows, **found.context)


def _json_form(_request: Request, found: Page) -> Response:
    return as_json(found.data)


def _csv_form(_request: Request, found: Page) -> Response:
    if found.rows is None:
        return as_json({"error": "there is no table on this page"}, 404)
    return as_csv(found.rows)


def _cell(value: Any) -> Any:
    if isinstance(value, (bool, int, float)):
        return "" if isinstance(value, float) and not math.isfinite(value) else value
    text = "" if value is None else value if isinstance(value, str) else json.dumps(plain(value), ensure_ascii=False)
    is_formula = text.lstrip().startswith(FORMULA_STARTS) or text.startswith(("\t", "\r", "\n"))
    return f"'{text}" if is_formula else text
