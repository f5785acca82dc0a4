"""The explorer in a real Chromium: weight and time of the first view, and the frames of a long list that is scrolled.

Time is from the navigation to the first explanation on the screen, in a browser that has nothing of the page in its
cache. The list is that of all training examples with pictures, scrolled by the wheel from its start to its end, pages
fetched on the way; a frame is late where more than 1.5 display periods (25 ms) lie between two.

Run: ``python benchmarks/explorer.py --work DIRECTORY [--chromium PATH] [--repeat 5]``; it starts a gateway that
serves digits. Writes JSON.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

from commands import RESULTS, proponent, trained, write
from load_service import running
from playwright.sync_api import Browser, Page, sync_playwright

LATE_MS = 25
ALLOWED = ("--allow-examples", "--allow-thumbnails", "--allow-samples")
WATCH = """() => {
    window.longTasks = []; window.frames = []; window.ended = false;
    new PerformanceObserver(list => longTasks.push(...list.getEntries().map(entry => entry.duration)))
        .observe({ type: "longtask" });
    let before = performance.now();
    const frame = now => {
        frames.push(now - before);
        before = now;
        if (!window.ended) requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
}"""
AT_END = "body => body.scrollTop + body.clientHeight >= body.scrollHeight - 2"


def first_view(browser: Browser, url: str) -> dict[str, float]:
    """Kilobytes of script and of all, and milliseconds to the first explanation."""
    page = browser.new_page()
    sizes: dict[str, int] = {}
    page.on("response", lambda reply: sizes.__setitem__(reply.url, int(reply.headers.get("content-length", 0))))
    page.goto(url, wait_until="commit")
    page.locator(".example img").first.wait_for()
    taken = page.evaluate("performance.now()")
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    page.close()
    scripts = sum(size for name, size in sizes.items() if name.endswith(".js"))
    found = {"script_kb": scripts / 1000, "all_kb": sum(sizes.values()) / 1000}
    return {**found, "first_paint_ms": paint, "explained_ms": taken}


def scroll(browser: Browser, url: str) -> dict[str, Any]:
    """Frames and long tasks while the whole list is scrolled."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(f"{url}/#/data?show=all")
    body = page.locator(".grid-body")
    page.locator(".example-row").first.wait_for()
    body.hover()
    page.evaluate(WATCH)
    while not _at_end(page):
        page.mouse.wheel(0, 400)
        page.wait_for_timeout(16)
    page.evaluate("window.ended = true")
    frames = sorted(page.evaluate("frames"))
    longest = page.evaluate("longTasks")
    rows = int(page.locator(".grid").get_attribute("aria-rowcount") or 0) - 1
    page.close()
    return {
        "rows": rows,
        "frames": len(frames),
        "median_ms": statistics.median(frames),
        "p99_ms": frames[int(len(frames) * 0.99)],
        "longest_ms": frames[-1],
        "late_share": sum(frame > LATE_MS for frame in frames) / len(frames),
        "long_tasks_ms": longest,
    }


def _at_end(page: Page) -> bool:
    """Whether the list is at its end, and stays there."""
    body = page.locator(".grid-body")
    if not body.evaluate(AT_END):
        return False
    page.wait_for_timeout(300)
    return bool(body.evaluate(AT_END))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="directory that is kept between runs")
    parser.add_argument("--chromium", default=os.environ.get("PROPONENT_CHROMIUM") or shutil.which("chromium"))
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "explorer.json")
    options = parser.parse_args()
    directory = trained("digits", options.work)
    proponent("rebuild", directory, "--store", directory / "store", "--quiet", "--json")
    with running(sys.executable, directory / "store", ALLOWED) as service, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium)
        views = [first_view(browser, f"http://{service.http}") for _ in range(options.repeat)]
        scrolls = [scroll(browser, f"http://{service.http}") for _ in range(options.repeat)]
        version = browser.version
        browser.close()
    write(options.out, {"chromium": version, "first_view": views, "scroll": scrolls})
    print(options.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
