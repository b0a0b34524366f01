"""The workbench as one ASGI application over a workspace."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from pkgutil import iter_modules

from fastapi import FastAPI
from fastapi.routing import APIRouter

from patchlight.store.review import open_review
from patchlight.web import pages
from patchlight.web.access import Wall, require_declared
from patchlight.web.errors import explain_errors
from patchlight.web.jobs import Jobs
from patchlight.web.texts import require_texts
from patchlight.web.tries import Tries


def create_app(
    workspace: Path,
    database_url: str | None = None,
    *,
    origin: str | None = None,
    judge_first: bool = False,
    routers: Iterable[APIRouter] | None = None,
) -> FastAPI:
    """The app over a workspace; the review is in the workspace's own SQLite, or at `database_url`.

    `origin` (such as "https://workbench.example.org") is where browsers reach it through a proxy; without it only
    loopback hosts are served. `judge_first` hides what the machine says from reviewers until they have judged. Raises
    ValueError where a route does not say who may open it, or a text is missing in a language: faults of ours that no
    user may meet.
    """
    chosen = all_routers() if routers is None else list(routers)
    require_declared(route for router in chosen for route in router.routes)
    require_texts({source.name: source.read_text(encoding="utf-8") for source in _templates()})
    app = FastAPI(
        title="Patchlight", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False, lifespan=_lifespan
    )
    app.state.workspace = workspace
    app.state.database = open_review(database_url or workspace)
    app.state.origin = origin
    app.state.judge_first = judge_first
    app.state.database_url = database_url
    app.state.tries = Tries()
    app.state.jobs = Jobs()
    for router in chosen:
        # Not `include_router`, which hides the routes: the table of all routes stays one flat list that tests walk.
        app.router.routes.extend(router.routes)
    app.add_middleware(Wall, origin=origin)
    explain_errors(app)
    return app


def all_routers() -> list[APIRouter]:
    """The `router` of every file in `pages/`."""
    names = sorted(each.name for each in iter_modules(pages.__path__))
    return [import_module(f"{pages.__name__}.{name}").router for name in names]


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    try:
        yield
    finally:
        app.state.jobs.end()
        app.state.database.dispose()


def _templates() -> Iterable[Path]:
    return (Path(str(each)) for each in files("patchlight.web").joinpath("templates").iterdir())
