"""The page in a real browser: a quiet console, nothing fetched or cut off, controls that work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from onnx_prune.report import Report, Whole
from tests.pages import html, layer
from tests.reports import group, resnet50
from tools.look import SCHEMES, WIDTHS, browsing, chromium, look, opened

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from playwright.sync_api import Page as Tab

pytest.importorskip("playwright", reason="pip install 'onnx-prune[browser]' opens pages in a browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium() is None, reason="no Chromium is installed"),
]
HOSTILE = "</th><script>alert(1)</script><img src=http://x.invalid onerror='alert(2)'>"


def report() -> Report:
    """Twelve groups and as many layers, of several sizes; the least in the middle."""
    names = [f"backbone.stage{j % 4}.block{j}.conv" for j in range(12)]
    layers = tuple(layer(name, 1000 + 700 * (j * 5 % 12), 10_000 * j) for j, name in enumerate(names))
    groups = tuple(
        replace(group(f"{name}.weight", 64, 32 + j), params=1000 * (j * 5 % 12))
        for j, name in enumerate(names)
    )
    held = Whole("backbone.stage0.block0.conv.weight:1", 3, "input is a graph input", (("x", 1),))
    return resnet50(groups=groups, layers=layers, whole=(held,))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing(chromium() or "") as found:
        yield found


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    path.write_text(html(report()))
    return path


def names(tab: Tab, table: str = "grouprows") -> list[str]:
    return tab.locator(f"#{table} tbody tr:not([hidden]) th b").all_inner_texts()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_nothing_is_wrong(browser: Browser, page: Path, width: int, scheme: str) -> None:
    assert list(look(browser, page, width, scheme).wrong()) == []


def test_what_is_wrong_is_seen(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    wide = "<p style='width:9999px'>x</p><p style='width:9px'>supercalifragilistic</p>"
    path.write_text(f"{wide}<img src='other.png'><script>console.error('x'); nowhere()</script>")
    seen = look(browser, path, 1280, "light")
    assert all((seen.cut_off, seen.spilt, seen.fetched))
    assert len(seen.errors) >= 2


def test_search_leaves_what_has_all_words(browser: Browser, page: Path) -> None:
    with opened(browser, page) as (tab, _):
        search = tab.get_by_role("searchbox").first
        search.fill("STAGE1 conv")
        assert names(tab) == [f"backbone.stage1.block{j}.conv.weight" for j in (1, 5, 9)]
        assert tab.locator("[data-for=grouprows] output").inner_text() == "3 of 13 groups"
        search.fill("nothing like it")
        assert names(tab) == []
        search.fill("")
        assert len(names(tab)) == 13


def test_states_can_be_picked(browser: Browser, page: Path) -> None:
    with opened(browser, page) as (tab, _):
        tab.get_by_label("Show").select_option("whole")
        assert names(tab) == ["backbone.stage0.block0.conv.weight:1"]


def test_a_click_or_a_key_sorts_and_says_so(browser: Browser, page: Path) -> None:
    with opened(browser, page) as (tab, _):
        start = names(tab)
        head = tab.locator("#grouprows thead th", has_text="Parameters saved")
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == "descending"
        by_params = sorted(report().groups, key=lambda g: -g.params)
        assert names(tab)[:12] == [g.name for g in by_params]
        head.get_by_role("button").press("Enter")
        assert head.get_attribute("aria-sort") == "ascending"
        assert names(tab)[1:] == [g.name for g in reversed(by_params)]
        first = tab.locator("#grouprows thead th").first
        first.get_by_role("button").press("Space")
        assert names(tab) == start
        assert tab.locator("#grouprows thead [aria-sort]").count() == 1


def test_every_control_can_be_reached_by_keyboard(browser: Browser, page: Path) -> None:
    with opened(browser, page) as (tab, _):
        wanted = tab.locator("a, button:visible, input, select, summary").count()
        reached = set()
        for _ in range(wanted + 5):
            tab.keyboard.press("Tab")
            reached.add(tab.evaluate("[...document.querySelectorAll('*')].indexOf(document.activeElement)"))
        assert len(reached) >= wanted


def test_hostile_names_run_nothing(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "hostile.html"
    names = (layer(HOSTILE), layer("conv"))
    path.write_text(
        html(resnet50(source="in.onnx", groups=(group(HOSTILE),), layers=names, notes=(HOSTILE,)))
    )
    with opened(browser, path) as (tab, seen):
        assert HOSTILE in tab.locator("#grouprows").inner_text()
        assert tab.locator("img").count() == 0
        assert seen.errors == seen.fetched == []


def test_without_scripts_all_is_there_but_controls(browser: Browser, page: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(page.as_uri())
    assert tab.locator("#grouprows tbody tr").count() == 13
    assert not tab.get_by_role("searchbox").first.is_visible()
    context.close()


def test_it_prints(browser: Browser, page: Path) -> None:
    with opened(browser, page) as (tab, _):
        tab.emulate_media(media="print")
        assert not tab.get_by_role("searchbox").first.is_visible()
        assert tab.pdf(format="A4").startswith(b"%PDF")
