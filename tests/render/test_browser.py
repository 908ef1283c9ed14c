# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pages in a real browser: the picture, keys, clicks, and that nothing is asked of the network."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mminspect.render.html import write_page
from tests.commands.test_map import tiny
from tests.conftest import Cli, Unpacked
from tests.kit.support import AMD64_DEVDAX, AMD64_HEALTHY, AMD64_LOW_RAM, I386_HOLE
from tests.render.test_html import HOSTILE

webdriver = pytest.importorskip("selenium.webdriver")
wheel_input = pytest.importorskip("selenium.webdriver.common.actions.wheel_input")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver")
OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--force-device-scale-factor=1"),
    "--window-size=1280,1400",
)
# What the driver takes for the key.
HOME = "\ue011"
ERROR, NOTE = (215, 95, 0), (255, 255, 95)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Start a browser that tells what pages ask for."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in (*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(unpacked: Unpacked, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the report of the hole."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    command = [sys.executable, "-m", "mminspect", str(unpacked(I386_HOLE)), "--format", "html", "-o", str(path)]
    assert subprocess.run(command, check=False).returncode == 1
    return path


def opened(browser: Any, path: Path, fragment: str = "") -> None:
    """Open a page and let it draw."""
    browser.get("about:blank")
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(f"file://{path}{fragment}")
    settled(browser)


def settled(browser: Any) -> None:
    """Wait for two frames."""
    browser.execute_async_script(
        "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()))"
    )


def findings_lane(browser: Any) -> list[tuple[int, ...]]:
    """Get the colors along the lane of findings."""
    script = """
        const map = document.getElementById("map");
        const row = map.getContext("2d").getImageData(0, 26, map.width, 1).data, colors = [];
        for (let n = 0; n < row.length; n += 4) colors.push([row[n], row[n + 1], row[n + 2]]);
        return colors;"""
    return [tuple(color) for color in browser.execute_script(script)]


def press(browser: Any, *keys: str) -> None:
    """Press keys while the map has the focus."""
    browser.find_element("id", "map").send_keys(*keys)
    settled(browser)


def shown(browser: Any) -> tuple[int, int]:
    """Get the pfns that are shown."""
    match = re.match(r"(0x[0-9a-f]+) to (0x[0-9a-f]+),", browser.find_element("id", "view").text)
    assert match is not None
    return int(match[1], 16), int(match[2], 16)


def here(browser: Any) -> str:
    """Get what is said of the place of the cursor."""
    return str(browser.find_element("id", "here").text)


def test_nothing_is_asked_for_and_nothing_is_complained_of(browser: Any, page: Path) -> None:
    opened(browser, page)
    press(browser, "+", "+", "n", "p", "-")
    assert browser.get_log("browser") == []
    asked = re.findall(
        r'"Network.requestWillBeSent".*?"url":"([^"]*)', "".join(map(str, browser.get_log("performance")))
    )
    assert {url for url in asked if not url.startswith(("file:", "about:"))} == set()
    assert browser.execute_script("return document.body.className") == "live"
    # Whatever would get in could neither load nor run.
    browser.execute_script(
        "const i = document.createElement('img'); i.src = 'http://127.0.0.1:9/x'; document.body.append(i);"
        "const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s);"
    )
    time.sleep(0.2)
    assert browser.execute_script("return window.ran") is None
    said = [entry["message"] for entry in browser.get_log("browser")]
    assert len(said) >= 2 and all("Content Security Policy" in message for message in said)


def test_finding_has_its_color_at_every_zoom(browser: Any, page: Path) -> None:
    opened(browser, page, "#pfn=0xa17b")
    assert here(browser).startswith(
        "pfn 0xa17b, address 0xa17b000, pageblock 0xa000\nzeroed; links to node 0 DMA, spanned by"
    )
    assert ERROR in findings_lane(browser)
    widths = []
    for _ in range(40):
        press(browser, "-")
        assert ERROR in findings_lane(browser)
        widths.append(shown(browser)[1] - shown(browser)[0])
        if widths[-1] == 0x4AFE0:
            break
    assert widths[-1] == 0x4AFE0 and widths == sorted(widths)
    for _ in range(40):
        press(browser, "+")
        assert ERROR in findings_lane(browser)
    start, end = shown(browser)
    # Down to pages: one has some 24 pixels.
    assert end - start <= 60 and start <= 0xA17B < end
    width = len(findings_lane(browser))
    at = [n for n, color in enumerate(findings_lane(browser)) if color == ERROR]
    assert abs(at[0] - (0xA17B - start) * width / (end - start)) <= 1.1 * width / (end - start)


def test_place_of_many_cells_has_the_color_of_most(browser: Any, cli: Cli, unpacked: Unpacked, tmp_path: Path) -> None:
    data = cli("map", "-c", unpacked(AMD64_HEALTHY), "--format", "json").json()
    data["classes"] = ["anon", "reserved"]
    # One page of three is reserved, several to a pixel.
    data["cells"] = [[pfn, pfn + 1, 0, 0, [int(pfn % 3 == 0), 1], [], 0] for pfn in range(9000)]
    data["findings"] = []
    path, out = tmp_path / "page.html", io.StringIO()
    write_page(data, out, "", [])
    path.write_text(out.getvalue())
    opened(browser, path)
    script = """
        const map = document.getElementById("map"), colors = new Set();
        const row = map.getContext("2d").getImageData(0, 64, map.width, 1).data;
        for (let n = 0; n < row.length; n += 4) colors.add([row[n], row[n + 1], row[n + 2]].join());
        return [...colors];"""
    assert "158,158,158" not in browser.execute_script(script)
    assert "95,175,215" in browser.execute_script(script)


def test_note_that_is_one_page_is_seen_among_300000(browser: Any, page: Path) -> None:
    opened(browser, page)
    lane = findings_lane(browser)
    assert NOTE in lane[:4] and ERROR in lane
    assert lane.count(ERROR) < 20


def test_keys_go_from_finding_to_finding(browser: Any, page: Path) -> None:
    opened(browser, page)
    seen = []
    for _ in range(7):
        press(browser, "n")
        row = browser.find_element("css selector", "tr.chosen")
        start = int(row.get_attribute("data-start"))
        low, high = shown(browser)
        assert low <= start < high
        assert here(browser).startswith(f"pfn {start:#x},")
        seen.append((start, row.get_attribute("data-rule")))
    assert len(set(seen)) == 7
    press(browser, "p")
    row = browser.find_element("css selector", "tr.chosen")
    assert (int(row.get_attribute("data-start")), row.get_attribute("data-rule")) == seen[-2]


def test_click_on_a_finding_shows_its_place_and_the_other_way_round(browser: Any, page: Path) -> None:
    opened(browser, page)
    row = browser.find_element("css selector", "tr[data-rule='bitmap-bounds']")
    row.find_element("css selector", "td.number").click()
    settled(browser)
    assert browser.execute_script("return location.hash") == "#pfn=0xa17b"
    low, high = shown(browser)
    assert low <= 0xA17B and high >= 0xA217 and high - low < 0x800
    press(browser, HOME)
    lane = findings_lane(browser)
    canvas = browser.find_element("id", "map")
    actions = webdriver.ActionChains(browser)
    offset = lane.index(ERROR) + 1 - canvas.size["width"] // 2
    actions.move_to_element_with_offset(canvas, offset, 26 - canvas.size["height"] // 2).click().perform()
    settled(browser)
    chosen = browser.find_element("css selector", "tr.chosen")
    assert 0xA000 <= int(chosen.get_attribute("data-start")) < 0xA400


def test_filters_hide_and_the_keys_follow_them(browser: Any, page: Path) -> None:
    opened(browser, page)
    script = "const r = document.getElementById('rule'); r.value = 'zone-span'; r.dispatchEvent(new Event('change'))"
    browser.execute_script(script)
    rows = browser.find_elements("css selector", "tr[data-start]")
    assert {row.get_attribute("data-rule") for row in rows if row.is_displayed()} == {"zone-span"}
    browser.find_element("css selector", "input[value=error]").click()
    left = [row for row in rows if row.is_displayed()]
    assert {row.get_attribute("data-severity") for row in left} == {"note"}
    press(browser, "n")
    assert browser.find_element("css selector", "tr.chosen").is_displayed()


def test_wheel_and_drag_zoom_and_move(browser: Any, page: Path) -> None:
    opened(browser, page)
    whole = shown(browser)
    canvas = browser.find_element("id", "map")
    origin = wheel_input.ScrollOrigin.from_element(canvas)
    for _ in range(4):
        webdriver.ActionChains(browser).scroll_from_origin(origin, 0, -300).perform()
    settled(browser)
    low, high = shown(browser)
    assert whole[0] < low < high < whole[1] and high - low < (whole[1] - whole[0]) // 8
    webdriver.ActionChains(browser).click_and_hold(canvas).move_by_offset(200, 0).release().perform()
    settled(browser)
    moved = shown(browser)
    assert moved[0] < low and abs((moved[1] - moved[0]) - (high - low)) <= 2
    press(browser, HOME)
    assert shown(browser) == whole


def test_hostile_page_runs_and_shows_nothing_but_text(
    browser: Any, cli: Cli, unpacked: Unpacked, tmp_path: Path
) -> None:
    data = cli("map", "-c", unpacked(AMD64_HEALTHY), "--format", "json").json()
    data["target"].update(release=HOSTILE)
    data["zones"] = [{**zone, "name": HOSTILE} for zone in data["zones"]]
    data["classes"] = [HOSTILE for _ in data["classes"]]
    findings = [{**finding, "rule": HOSTILE, "message": HOSTILE} for finding in data["findings"]]
    path = tmp_path / "page.html"
    out = io.StringIO()
    write_page(data, out, HOSTILE, findings)
    path.write_text(out.getvalue())
    opened(browser, path)
    press(browser, "n", "+")
    assert browser.get_log("browser") == []
    assert browser.find_elements("tag name", "img") == []
    assert "<img src=x" in here(browser)
    assert browser.title.startswith("mminspect: </script>")


@pytest.mark.parametrize("width", [1280, 400])
def test_page_is_no_wider_than_the_screen(width: int, browser: Any, page: Path) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        opened(browser, page)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        # What is wrong is read without moving the table sideways; a filtered finding is not there.
        box = "const b = arguments[0].getBoundingClientRect(); return [b.left, b.right]"
        for cell in browser.find_elements("css selector", "tr[data-start] > td"):
            left, right = browser.execute_script(box, cell)
            assert left >= 0 and right <= width
        browser.find_element("css selector", "input[value=note]").click()
        rows = browser.find_elements("css selector", "tr[data-start]")
        assert {row.get_attribute("data-severity") for row in rows if row.is_displayed()} == {"error"}
        assert ERROR in findings_lane(browser)
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_paper_has_the_picture_in_the_colors_of_paper(browser: Any, page: Path) -> None:
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": dark})
    try:
        opened(browser, page)
        lane = findings_lane(browser)
        browser.execute_script("window.dispatchEvent(new Event('beforeprint'))")
        printed = findings_lane(browser)
        browser.execute_script("window.dispatchEvent(new Event('afterprint'))")
        settled(browser)
        assert findings_lane(browser) == lane
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": []})
        # The lane itself, beside the findings.
        assert (0x36, 0x3B, 0x42) in lane and (0xD5, 0xD9, 0xDE) in printed and (0x36, 0x3B, 0x42) not in printed
        assert ERROR in printed
        assert browser.find_element("id", "map").is_displayed()
        assert not browser.find_element("id", "keys").is_displayed()
        assert all(part.get_attribute("open") for part in browser.find_elements("css selector", "tr details"))
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


def test_overview_moves_what_is_shown(browser: Any, page: Path) -> None:
    opened(browser, page, "#pfn=0xa17b")
    low, high = shown(browser)
    overview = browser.find_element("id", "overview")
    webdriver.ActionChains(browser).click_and_hold(overview).move_by_offset(overview.size["width"] // 4, 0).perform()
    settled(browser)
    start, end = shown(browser)
    webdriver.ActionChains(browser).release().perform()
    # Three quarters of 0x4afe0 pages.
    assert abs((start + end) // 2 - 0x4AFE0 * 3 // 4) < 0x4AFE0 // 200 and abs((end - start) - (high - low)) <= 2


def test_tables_are_there_without_javascript(browser: Any, page: Path) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(f"file://{page}")
        assert not browser.find_element("id", "map").is_displayed()
        body = browser.find_element("tag name", "body").text
        assert "156 struct pages not initialized" in body and "0x1000-0x36ffe" in body
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_page_of_a_report_has_nothing_that_a_report_does_not_tell(
    browser: Any, cli: Cli, unpacked: Unpacked, tmp_path: Path
) -> None:
    report, path = tmp_path / "report.json", tmp_path / "page.html"
    cli("scan", "-c", unpacked(I386_HOLE), "--format", "json", "-o", report)
    cli("map", "--from", report, "--format", "html", "-o", path)
    opened(browser, path, "#pfn=0xa180")
    assert browser.get_log("browser") == []
    titles = [item.text for item in browser.find_elements("css selector", "li.title")]
    assert "Findings:" in titles and "Zones:" in titles
    assert "What pages are:" not in titles and "Migratetypes:" not in titles
    # The page links to zone DMA, and zone Normal spans it: of that a report has the second only.
    press(browser, "n")
    assert "spanned by node 0" in here(browser) and "links to" not in here(browser)
    assert "unreadable" not in browser.page_source.split("<h2>Findings")[0]
    lanes = browser.execute_script("return document.getElementById('map').clientHeight")
    opened(browser, path)
    assert lanes < 150


def test_memory_of_devices_has_its_findings_in_the_picture(
    browser: Any, cli: Cli, unpacked: Unpacked, tmp_path: Path
) -> None:
    path = tmp_path / "page.html"
    cli("scan", "-c", unpacked(AMD64_DEVDAX), "--format", "html", "-o", path)
    opened(browser, path, "#pfn=0x1c100")
    assert "device" in here(browser) and "links to node 0 DMA32" in here(browser) and "error" in here(browser)


def test_a_warning_at_the_edge_of_a_hole_is_seen_in_the_whole(
    browser: Any, cli: Cli, unpacked: Unpacked, tmp_path: Path
) -> None:
    path = tmp_path / "page.html"
    cli("scan", "-c", unpacked(AMD64_LOW_RAM), "--format", "html", "-o", path)
    opened(browser, path)
    assert (0xFF, 0xAF, 0x00) in findings_lane(browser)


def test_one_page_of_a_large_cell_is_all_that_is_marked(browser: Any, tmp_path: Path) -> None:
    data = tiny()
    data.update(memory=[{"start_pfn": 0, "end_pfn": 0x40000, "state": "online"}], end_pfn=0x40000, cell_pages=0x40000)
    data["target"] = {**data["target"], "memory_model": "flatmem"}
    data["cells"] = [[0, 0x40000, 0, 0, [0, 0x40000], [], 3]]
    data["findings"] = [{**data["findings"][0], "severity": "error", "pfns": [[0x12345, 0x12346]]}]
    data["findings_omitted"] = 0
    data["summary"] = {"by_severity": {"error": 1, "warning": 0, "note": 0}, "pages_examined": 0x40000, "pageblocks": 1}
    out = io.StringIO()
    write_page(data, out, "mminspect")
    path = tmp_path / "page.html"
    path.write_text(out.getvalue())
    opened(browser, path, "#pfn=0x12345")
    assert browser.get_log("browser") == []
    lane = findings_lane(browser)
    low, high = shown(browser)
    marked = sum(color == (0xD7, 0x5F, 0x00) for color in lane)
    assert 0 < marked < 3 * max(len(lane) / (high - low), 4)
