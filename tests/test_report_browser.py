"""The report in a real browser: no error, no request, sorting, filters, keyboard, provenance, and text that stays text.

Needs Playwright (requirements-dev.txt) and a Chromium: its own (`playwright install chromium`) or the system's.
"""

import os
import shutil

import pytest
from report_pages import EVIL, hostile, ordinary
from standins import verb

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
QUIET = [  # no sandbox: containers forbid the browser its own; nothing in the background that would ask the network
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as play:
        system = next(
            (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
        )
        own = play.chromium.executable_path
        path = own if os.path.exists(own) else system
        if path is None:
            pytest.skip("no Chromium: playwright install chromium, or the system's package chromium")
        running = play.chromium.launch(executable_path=path, args=QUIET)
        yield running
        running.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A page of an ordinary folder, of a hostile one, and of both."""
    root = tmp_path_factory.mktemp("report")
    outs = {"ordinary": [ordinary(root / "run")], "hostile": [hostile(root / "evil")]}
    outs["both"] = outs["ordinary"] + outs["hostile"]
    for name, folders in outs.items():
        options = ["--file", str(root / f"{name}.html"), "--studies", str(root / "none")]
        assert verb("report", "--out", *map(str, folders), *options, "--measurements", str(root / "none")) == 0
    return root


@pytest.fixture
def visit(browser, files):
    """Open a page; at the end nothing was requested but the file itself, and nothing was said on the console."""
    pages = []

    def visited(name, **options):
        page = browser.new_page(**{"viewport": {"width": 1280, "height": 900}, **options})
        said, asked = [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto((files / f"{name}.html").as_uri())
        pages.append((page, said, asked))
        return page

    yield visited
    for page, said, asked in pages:
        assert said == []
        assert [url for url in asked[1:] if not url.startswith("data:")] == [] and asked[0].startswith("file:")
        page.close()


def rows(page, table):
    return page.eval_on_selector_all(
        f"{table} tbody tr", "rows => rows.filter(r => r.checkVisibility()).map(r => r.cells[0].innerText)"
    )


def test_a_number_opens_where_it_comes_from(visit, files):
    page = visit("ordinary")
    page.click('[data-group="avoiding/vdd_ve"][data-metric="success"] >> nth=0')
    dialog = page.inner_text("dialog")
    for text in (
        "Avoiding · VDD-VE",
        "0.95",
        "paper 0.95",
        "reproduce",
        "0123456789",
        "records/avoiding/vdd_ve/0.json",
        "2.13.0",
    ):
        assert text in dialog
    assert "1 of 4 planned cells are not done" in dialog and "harness.run --methods vdd_ve" in dialog
    page.click("dialog >> text=seed 2")
    assert "records/avoiding/vdd_ve/2.json" in page.inner_text("dialog")
    page.click("#close")
    assert not page.is_visible("dialog")


def test_a_missing_number_shows_the_command(visit):
    page = visit("ordinary")
    page.click('[data-group="pushing/cd"][data-metric="success"] >> nth=0')
    assert "--methods cd --tasks pushing" in page.inner_text("dialog .command code")


def test_tables_sort_with_what_is_missing_last(visit):
    page = visit("ordinary")
    table = "details[data-table='1a']"
    before = rows(page, table)
    head = f"{table} th:has-text('VDD-VE')"
    for direction in ("descending", "ascending"):
        page.click(f"{head} >> button")
        assert page.get_attribute(head, "aria-sort") == direction
        assert rows(page, table)[0] == "Avoiding"  # the only row with a number
    page.click(f"{table} th:has-text('Task') >> button")
    assert rows(page, table) == before
    page.click("#all th:has-text('Success') >> button")
    values = page.eval_on_selector_all(
        "#all tbody tr",
        "rows => rows.filter(r => r.checkVisibility()).map(r => r.cells[2].dataset.value).filter(Boolean)",
    )
    assert values == sorted(values, key=float, reverse=True) and len(values) >= 3


def test_tables_filter(visit):
    page = visit("ordinary")
    table = "details[data-table='1a']"
    page.fill("#filter", "avoid vdd-ve")
    assert rows(page, table) == ["Avoiding"]
    heads = page.eval_on_selector_all(
        f"{table} thead th", "cells => cells.filter(c => c.checkVisibility()).map(c => c.innerText)"
    )
    assert len(heads) == 2 and "VDD-VE" in heads[1]
    page.fill("#filter", "no such thing")
    assert page.is_visible("#nothing") and rows(page, table) == []
    page.fill("#filter", "")
    page.check("#filled")
    assert rows(page, table) == ["Avoiding"] and not page.is_visible("#nothing")
    assert page.inner_text("#count").startswith("3 of ")
    page.select_option("#state", "failed")
    assert page.inner_text("#count").startswith("1 of ")
    page.select_option("#state", "")
    page.fill("#search", "pushing cd-ve")
    assert page.inner_text("#count").startswith("1 of ")


def test_the_keyboard_reaches_a_number_and_comes_back(visit):
    page = visit("ordinary")
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('cell')"):
            break
    else:
        pytest.fail("no cell in 60 steps")
    first = page.evaluate("document.activeElement.dataset.group")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    there = page.evaluate("document.activeElement.dataset.group")
    assert there not in (None, first)
    page.keyboard.press("Enter")
    assert page.is_visible("dialog")
    page.keyboard.press("Escape")
    assert not page.is_visible("dialog")
    assert page.evaluate("document.activeElement.dataset.group") == there
    assert page.evaluate("document.activeElement.getAttribute('aria-label')")


def test_text_from_records_stays_text(visit):
    page = visit("hostile")
    page.evaluate(
        "document.querySelectorAll('[data-group]').forEach(e => (e.click(), document.querySelector('dialog').close()))"
    )
    page.evaluate("document.querySelector(\"[data-group='avoiding/vdd_ve']\").click()")
    assert "<script>window.hurt = 1</script>" in page.inner_text("dialog")
    assert page.evaluate("window.hurt === undefined && document.querySelectorAll('img[src=x]').length === 0")
    assert EVIL[:9] in page.inner_text("body")


def test_folders_are_shown_one_at_a_time(visit, files):
    page = visit("both")
    assert page.is_visible(".facts >> nth=0") and not page.is_visible(".facts >> nth=1")
    page.select_option("#run", "1")
    assert not page.is_visible(".facts >> nth=0") and str(files / "evil") in page.inner_text(".facts >> nth=1")
    page.click('[data-run="1"][data-group="avoiding/ctm"] >> nth=0')
    assert str(files / "evil") in page.inner_text("dialog")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_theme_follows_the_system_until_the_button_is_pressed(scheme, visit):
    page = visit("ordinary", color_scheme=scheme)
    colour = "getComputedStyle(document.body).backgroundColor"
    light = "rgb(247, 247, 245)"
    assert (page.evaluate(colour) == light) == (scheme == "light")
    shown = ".light-only" if scheme == "light" else ".dark-only"
    assert page.is_visible(f"{shown} >> nth=0")
    page.click("#theme")
    assert (page.evaluate(colour) == light) == (scheme == "dark") and not page.is_visible(f"{shown} >> nth=0")


def test_a_phone_scrolls_tables_and_not_the_page(visit):
    page = visit("ordinary", viewport={"width": 360, "height": 700}, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate("document.querySelector('.scroll').scrollWidth") > 360
    page.tap('[data-group="avoiding/beso"][data-metric="success"] >> nth=0')
    box = page.locator("dialog").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 360
