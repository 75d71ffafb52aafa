"""Open reports in a headless Chromium as people would, and list what is wrong with them.

`python -m tools.look REPORT.html...` opens every page wide and narrow, light and dark, tries its controls and
exits with 1 where anything is wrong; `--shots FOLDER` keeps pictures, to be looked at; `--axe axe.min.js`
checks accessibility (npm's axe-core).  It needs Playwright for Python and a Chromium that is installed.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from playwright.sync_api import Page as Tab

WIDTHS, SCHEMES = (1280, 390), ("light", "dark")
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_SHOWN = 10  # of what is wrong
_TALL = 16_000  # pixels that a picture has at most
_CUT_OFF = """() => [...document.querySelectorAll('body *')].filter(
    (one) => !one.closest('.unseen, .skip') && one.getClientRects().length &&
        (one.getBoundingClientRect().right > innerWidth + 1 || one.getBoundingClientRect().left < -1)
).map((one) => one.outerHTML.slice(0, 90))"""
_SPILT = """() => [...document.querySelectorAll('td, th, .figure, .note, dd, dt, label, p')].filter(
    (one) => one.clientWidth && one.scrollWidth > one.clientWidth + 1 && !one.closest('.unseen, .skip')
).map((one) => one.textContent.trim().slice(0, 60))"""
_AXE = """() => axe.run().then((found) => found.violations.map(
    (one) => `${one.impact}: ${one.id} (${one.nodes.length}): ${one.nodes[0].html.slice(0, 120)}`
))"""


@dataclass
class Seen:
    """What a browser made of a page.

    Attributes:
        errors: messages on its console, and what it threw.
        fetched: addresses that it asked for, but for its own.
        cut_off: elements that reach beyond the screen.
        spilt: texts that run out of their boxes, over what is beside them.
        violations: what axe found, with its impact.
    """

    errors: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    cut_off: list[str] = field(default_factory=list)
    spilt: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def wrong(self) -> Iterator[str]:
        """All that should not be; axe's lesser findings are let go."""
        yield from (f"console: {text}" for text in self.errors)
        yield from (f"fetched: {address}" for address in self.fetched)
        yield from (f"cut off: {element}" for element in self.cut_off)
        yield from (f"out of its box: {text}" for text in self.spilt)
        yield from (f"axe: {text}" for text in self.violations if text.startswith(("serious", "critical")))


def chromium() -> str | None:
    """The path of an installed browser."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


@contextmanager
def browsing(path: str) -> Iterator[Browser]:
    """A browser without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(
    browser: Browser, page: Path, width: int = 1280, scheme: Any = "light"
) -> Iterator[tuple[Tab, Seen]]:
    """A page in a tab of its own, and what is seen of it so far."""
    address = page.resolve().as_uri()
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    seen = Seen()
    tab = context.new_page()
    tab.on(
        "console", lambda said: seen.errors.append(said.text) if said.type in ("error", "warning") else None
    )
    tab.on("pageerror", lambda error: seen.errors.append(str(error)))
    tab.on("dialog", lambda dialog: seen.errors.append(f"a dialog: {dialog.message}"))
    ours = (address, "data:")
    tab.on("request", lambda asked: None if asked.url.startswith(ours) else seen.fetched.append(asked.url))
    tab.goto(address)
    try:
        yield tab, seen
    finally:
        context.close()


def look(
    browser: Browser, page: Path, width: int, scheme: str, axe: Path | None = None, shots: Path | None = None
) -> Seen:
    """What is wrong with a page at one width, in one scheme of colours."""
    with opened(browser, page, width, scheme) as (tab, seen):
        seen.cut_off = tab.evaluate(_CUT_OFF)
        seen.spilt = tab.evaluate(_SPILT)
        if shots is not None:
            height = min(tab.evaluate("document.documentElement.scrollHeight"), _TALL)
            clip: Any = {"x": 0, "y": 0, "width": width, "height": height}
            tab.screenshot(path=shots / f"{page.stem}-{width}-{scheme}.png", clip=clip, full_page=True)
        if axe is not None:
            tab.evaluate(axe.read_text())
            seen.violations = tab.evaluate(_AXE)
        return seen


def main() -> None:
    """Look at the pages named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.look", description=__doc__)
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--axe", type=Path, help="axe.min.js of npm's axe-core")
    parser.add_argument("--shots", type=Path, help="an existing folder for pictures")
    given = parser.parse_args()
    path = chromium()
    if path is None:
        parser.error(f"no browser: install one of {', '.join(_NAMES)}")
    found = 0
    with browsing(path) as browser:
        for page in given.pages:
            for width in WIDTHS:
                for scheme in SCHEMES:
                    seen = look(browser, page, width, scheme, given.axe, given.shots)
                    wrong = list(seen.wrong())
                    found += len(wrong)
                    lesser = sum(not text.startswith(("serious", "critical")) for text in seen.violations)
                    said = f", {lesser} lesser findings of axe" if given.axe else ""
                    print(f"{page.name} {width} {scheme}: {len(wrong)} wrong{said}")
                    for text in wrong[:_SHOWN]:
                        print(f"  {text}")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
