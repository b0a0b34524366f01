"""Real browsers over a real workbench: what the journeys share."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PASSWORD = "a long password"
CHROMIUM = next((found for name in ("chromium", "chromium-browser") if (found := shutil.which(name))), None)
PICTURES = os.environ.get("PATCHLIGHT_PICTURES")  # a folder: the pictures of the guide are taken again


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser of this machine; skips, saying why, where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def serving(workspace: Path) -> Iterator[str]:
    """The address of a workbench over the workspace."""
    import uvicorn

    from patchlight.web.app import create_app

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(create_app(workspace), port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


class Visitor:
    """Somebody at a browser of their own. What the page complains of, and what it asks of other hosts, is kept."""

    def __init__(self, browser: Any, address: str, **settings: Any) -> None:
        self.address = address
        self.context = browser.new_context(**{"locale": "en-US", **settings})
        self.page = self.context.new_page()
        self.page.set_default_timeout(15_000)
        self.complaints: list[str] = []
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._note)

    def _note(self, request: Any) -> None:
        if not request.url.startswith((self.address, "data:")):
            self.complaints.append(f"asked for {request.url}")

    def open(self, path: str) -> None:
        self.page.goto(self.address + path)

    def sign_in(self, name: str) -> None:
        self.open("/sign-in")
        self.page.fill("#name", name)
        self.page.fill("#password", PASSWORD)
        self.page.click("main button")
        self.page.wait_for_url("**/studies")

    def join(self, link: str, name: str) -> None:
        self.page.goto(link)
        self.page.fill("#name", name)
        for field in ("#password", "#again"):
            self.page.fill(field, PASSWORD)
        self.page.click("main button")
        self.page.wait_for_url("**/studies")

    def decide(self, candidate: str, word: str, text: str = "") -> None:
        self.open(f"/candidates/{candidate}")
        self.page.fill("#text", text)
        self.page.click(f'button[name="word"][value="{word}"]')
        self.page.wait_for_load_state()

    def photograph(self, name: str, *, whole: bool = False) -> None:
        """A picture for the guide, where they are wanted."""
        if PICTURES:
            self.page.screenshot(path=f"{PICTURES}/workbench-{name}.png", full_page=whole)
