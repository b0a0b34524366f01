"""The command that starts the workbench."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchlight.cli.review import DatabaseUrl
from patchlight.cli.studies import WORKSPACE, Workspace
from patchlight.cli.terminal import Terminal, command
from patchlight.errors import EnvironmentProblem, InputError

if TYPE_CHECKING:
    from fastapi import FastAPI

LOOPBACK = "127.0.0.1"
GRACE_SECONDS = 10


@command
def serve(
    terminal: Terminal,
    workspace: Workspace = WORKSPACE,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 8420,
    database: DatabaseUrl = None,
    host: Annotated[str, typer.Option(help="The address to listen on; another than this machine's needs --origin.")] = (
        LOOPBACK
    ),
    origin: Annotated[
        str | None, typer.Option(help="Where browsers reach it through a proxy, like https://workbench.example.org.")
    ] = None,
    judge_first: Annotated[
        bool, typer.Option("--judge-first", help="Hide the machine's verdict from reviewers until they have judged.")
    ] = False,
) -> Mapping[str, Any]:
    """Start the workbench; the first person joins by the link that is printed. Ctrl-C ends it."""
    from patchlight.review.people import first_token
    from patchlight.store.ledger import Ledger
    from patchlight.web.app import create_app

    terminal.workspace = workspace
    _require_origin(host, origin)
    Ledger(workspace).close()
    listening = _listen(host, port)
    app = create_app(workspace.resolve(), database, origin=origin, judge_first=judge_first)
    address = origin or f"http://{LOOPBACK}:{listening.getsockname()[1]}"
    terminal.say(f"The workbench is at {address} (Ctrl-C ends it)")
    token = first_token(app.state.database)
    if token is not None:
        terminal.say(
            f"Nobody has joined yet. This link makes one person the administrator, once:\n  {address}/join/{token}"
        )
    terminal.stdout.flush()
    _run(app, listening)
    return {"workspace": workspace, "address": address}


def _require_origin(host: str, origin: str | None) -> None:
    if origin is not None and (not origin.startswith(("http://", "https://")) or origin.count("/") != 2):
        raise InputError("serve-origin", f"{origin!r} is no origin", fix="write it like https://workbench.example.org")
    if host not in {LOOPBACK, "localhost", "::1"} and origin is None:
        what = "a workbench that other machines reach needs to know its address"
        raise InputError("serve-origin", what, fix="add --origin https://NAME, and put a proxy with TLS before it")


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens; raises EnvironmentProblem `serve-port` where the port is taken or not allowed."""
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        what = f"{host}:{port} cannot be listened on: {error.strerror}"
        raise EnvironmentProblem("serve-port", what, fix="choose another port: --port 0 takes a free one") from error
    return listening


def _run(app: FastAPI, listening: socket.socket) -> None:
    import uvicorn

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=app.state.origin is not None,  # only a proxy on this machine is believed
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    # The server stops by itself at Ctrl-C and then raises the signal again; stopping it is no error.
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])
