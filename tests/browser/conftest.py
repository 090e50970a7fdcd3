"""A real Chromium against a real server with the bundled checkpoint."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, expect, sync_playwright

from tests.app.conftest import RunningServer, running_server

# As the pages' own: the first answers after a start wait for a warm-up, on a slow machine for seconds.
_PATIENCE_MS = 30_000
expect.set_options(timeout=_PATIENCE_MS)

_NAMES = ("chromium", "chromium-browser", "google-chrome")

# A policy violation is in the console as well; this names the directive. And what is sent: [field, text or hash] pairs,
# because Chromium does not tell bodies that have files in them.
_WATCH = """
document.addEventListener("securitypolicyviolation", (event) =>
  console.error(`CSP ${event.violatedDirective} ${event.blockedURI}`));
window.sent = [];
const original = window.fetch;
const hash = async (file) => new Uint8Array(await crypto.subtle.digest("SHA-256", await file.arrayBuffer())).join();
window.fetch = async (path, options) => {
  if (path === "v1/segment") {
    const fields = [...options.body].map(async ([name, value]) => [name, value.size ? await hash(value) : value]);
    window.sent.push(await Promise.all(fields));
  }
  return original(path, options);
};
"""


def _chromium() -> str:
    given = os.environ.get("CHROMIUM")
    found = shutil.which(given) if given else next(filter(None, map(shutil.which, _NAMES)), None)
    if not found:
        wanted = f"$CHROMIUM is {given!r}, which is no program" if given else f"none of {', '.join(_NAMES)} is on PATH"
        pytest.fail(f"these tests need Chromium: {wanted}; install it or set CHROMIUM to its path", pytrace=False)
    return found


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = _chromium()
    with sync_playwright() as playwright:
        # No sandbox: containers that run tests lack the namespaces for it, and only our own page is loaded.
        running = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield running
        running.close()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("playground")
    with running_server(folder / "log", prompts=folder / "prompts") as running:
        running.wait_until_ready()
        yield running


class Watched:
    """A page that remembers everything that went wrong in it."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.url = url
        self.faults: list[str] = []
        #: Patterns of URLs whose failure a test brings about itself.
        self.expected: list[str] = []
        self.page: Page = context.new_page()
        self.page.set_default_timeout(_PATIENCE_MS)
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.faults.append(f"uncaught: {error}"))
        self.page.on("requestfailed", lambda request: self.faults.append(f"{request.url}: {request.failure}"))
        self.page.on("request", self._request)
        self.page.goto(url)

    def sent(self) -> list[dict[str, list[str]]]:
        """The forms that the page sent to /v1/segment since it was loaded; for files, a hash of their bytes."""
        forms = []
        for fields in self.page.evaluate("sent"):
            form: dict[str, list[str]] = {}
            for name, value in fields:
                form.setdefault(name, []).append(value)
            forms.append(form)
        return forms

    def _console(self, message: ConsoleMessage) -> None:
        place = message.location["url"]
        if message.type in {"error", "warning"} and not any(part in place for part in self.expected):
            self.faults.append(f"console: {message.text} ({place})")

    def _request(self, request: Request) -> None:
        if not request.url.startswith((self.url, f"blob:{self.url}", "data:")):
            self.faults.append(f"from outside: {request.url}")


@pytest.fixture
def context(browser: Browser, service: RunningServer) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=service.url)
    context.add_init_script(_WATCH)
    yield context
    context.close()


@pytest.fixture
def watched(context: BrowserContext, service: RunningServer) -> Iterator[Watched]:
    """The playground; the test fails when the console has an error, or anything came from elsewhere."""
    one = Watched(context, service.url)
    yield one
    assert one.faults == []
