"""The page in a real browser: what a reader does, and what a name must not do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gradpath.reports.html import render_html
from tests.reports.contents import HOSTILE, content_of, with_panels, write_histograms

STEPS = tuple(range(0, 101, 10))
LAYERS = ("net.0", "net.2", "net.4")


@pytest.fixture(scope="module")
def page_file(folder: Path) -> Path:
    run = write_histograms(folder / "browser", ("residual", "<b>boundary"), LAYERS, STEPS)
    other = write_histograms(folder / "other", ("residual", "<b>boundary"), LAYERS, (0, 15, 30))
    file = folder / "page.html"
    file.write_bytes(render_html(with_panels({"first": run, "second": other})))
    return file


class Opened:
    """A page, and all that it complained of and asked for."""

    def __init__(self, browser: Any, file: Path, **options: Any) -> None:
        self.page = browser.new_page(**options)
        self.page.set_default_timeout(10_000)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())
        if options.get("java_script_enabled", True) and 'id="panels-data"' in file.read_text():
            self.page.wait_for_selector(".panel path.curve", state="attached")

    def curves(self) -> list[str]:
        found: list[str] = self.page.eval_on_selector_all(
            ".panel:not([hidden]) path.curve", "all => all.map(path => path.getAttribute('d'))"
        )
        return found

    def set_step(self, at: int) -> None:
        self.page.eval_on_selector(
            "input[type=range]",
            "(slider, at) => { slider.value = at; slider.dispatchEvent(new Event('input')); }",
            at,
        )


@pytest.fixture(scope="module")
def opened(browser: Any, page_file: Path) -> Opened:
    return Opened(browser, page_file, viewport={"width": 1280, "height": 900})


def test_one_slider_moves_every_panel(opened: Opened) -> None:
    before = opened.curves()
    assert len(before) == len(LAYERS) * 2 * 2  # terms and runs
    opened.set_step(0)
    after = opened.curves()
    assert all(old != new for old, new in zip(before, after, strict=True))
    assert opened.page.inner_text(".controls output") == "step 0"
    # Of the run without step 40, its latest earlier one is shown.
    opened.set_step([*sorted({*STEPS, 15, 30})].index(40))
    labels = opened.page.eval_on_selector_all(".panel svg", "a => a.map(s => s.ariaLabel)")
    assert all("residual, first, step 40" in label for label in labels)
    assert all("residual, second, step 30" in label for label in labels)


def test_keyboard_moves_the_slider_and_reads_the_bins(opened: Opened) -> None:
    opened.set_step(0)
    page = opened.page
    page.focus("input[type=range]")
    page.keyboard.press("ArrowRight")
    assert page.inner_text(".controls output") == "step 10"
    page.focus(".panel svg")
    page.keyboard.press("ArrowRight")
    assert "residual, first: " in page.inner_text("#spoken")
    assert page.is_visible("#tooltip")


def test_switches_of_terms_layers_runs_axis_and_weights(opened: Opened) -> None:
    page = opened.page
    everything = opened.curves()
    for name, left in (("<b>boundary", 6), ("second", 6), ("net.2", 8)):
        box = page.get_by_label(name, exact=True).first
        box.uncheck()
        assert len(opened.curves()) == left, name
        box.check()
    for name in ("linear axis", "weighted"):
        box = page.get_by_label(name)
        box.check()
        assert opened.curves() != everything, name
        box.uncheck()
    assert opened.curves() == everything


def test_tooltip_has_the_numbers(opened: Opened) -> None:
    panel = opened.page.locator(".panel svg").first
    panel.scroll_into_view_if_needed()
    box = panel.bounding_box()
    opened.page.mouse.move(box["x"] + box["width"] * (38 + 334) / 680, box["y"] + 60)
    text = opened.page.inner_text("#tooltip")
    assert "of 200 (" in text
    assert "3 exactly zero" in text


def test_play_goes_to_the_end(opened: Opened) -> None:
    opened.set_step(9)
    opened.page.click("text=Play")
    assert opened.page.inner_text(".controls button") == "Pause"
    opened.page.wait_for_selector(".controls button:text-is('Play')")
    assert opened.page.inner_text(".controls output") == "step 100"


def test_tables_sort_by_their_numbers(opened: Opened) -> None:
    page = opened.page

    def column() -> list[str]:
        found: list[str] = page.locator("#losses tbody td.number").all_inner_texts()
        return found

    heading = page.locator("#losses th.number button")
    heading.click()
    assert column() == ["2e-9", "9", "10", "not measured"]
    heading.click()
    assert column() == ["10", "9", "2e-9", "not measured"]
    assert page.get_attribute("#losses th.number", "aria-sort") == "descending"


def test_nothing_is_asked_for_and_nothing_complains(opened: Opened, page_file: Path) -> None:
    fetched = [url for url in opened.requests if not url.startswith("data:")]
    assert fetched == [page_file.as_uri()]
    assert opened.complaints == []


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_its_window_in_both_themes(
    browser: Any, page_file: Path, width: int, scheme: str
) -> None:
    options = {"viewport": {"width": width, "height": 700}, "color_scheme": scheme}
    opened = Opened(browser, page_file, **options)
    assert opened.page.evaluate("document.documentElement.scrollWidth") == width
    assert _lightness(opened.page) == (scheme == "light")
    opened.page.click("#theme")
    assert _lightness(opened.page) == (scheme == "dark")
    assert opened.complaints == []
    opened.page.close()


def _lightness(page: Any) -> bool:
    return bool(
        page.evaluate(
            "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0] > 127"
        )
    )


def test_the_static_part_needs_no_script(browser: Any, page_file: Path) -> None:
    opened = Opened(browser, page_file, java_script_enabled=False)
    assert opened.page.is_visible("text=Verdict plain")
    assert opened.page.is_visible("#figure-losses img")
    assert not opened.page.is_visible("#panels")
    opened.page.close()


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_name_is_text(browser: Any, folder: Path, kind: str) -> None:
    file = folder / "hostile.html"
    file.write_bytes(render_html(content_of(HOSTILE[kind])))
    opened = Opened(browser, file, viewport={"width": 1280, "height": 700})
    assert opened.page.title() != "taken"
    assert opened.page.locator("#taken").count() == 0
    assert opened.page.locator("img").count() == 1
    assert opened.complaints == []
    shown = opened.page.inner_text("h1")
    assert shown.startswith(f"Title {HOSTILE[kind][:3]}")
    assert opened.page.evaluate("document.documentElement.scrollWidth") == 1280
    opened.page.close()
