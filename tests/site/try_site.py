"""The built site in Chromium, at the widths of a desktop and a phone (make test-docs).

python try_site.py SITE PICTURES              returns 1 if a page has a fault

Every page must have text, load its pictures, raise no error, load nothing from elsewhere, and not be wider than the
screen; every link inside of the site must lead to a page and, after #, to a place on it; the search must find pages.
PICTURES/WIDTH/PAGE.png are for people to look at.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

from playwright.sync_api import Page, TimeoutError, sync_playwright

WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}
SEARCHES = {
    "barostat": "openmm.html",
    "batch_size": "reference/settings.html",
    "committee": "committee.html",
    "magmoms": "conventions.html",
}
"""Words, and a page that must be among the results."""
SHORTEST = 200
"""Characters of text that a page must have."""
FAULTS_OF_A_PAGE = """() => {
  const article = document.querySelector("article");
  const faults = [];
  if (!article || article.innerText.length < SHORTEST) faults.push("has no text");
  if (article && article.offsetHeight < 100) faults.push("shows nothing");
  const root = document.documentElement;
  if (root.scrollWidth > root.clientWidth) faults.push(`is ${root.scrollWidth} wide on ${root.clientWidth} pixels`);
  for (const image of document.images)
    if (!image.complete || image.naturalWidth === 0) faults.push(`has a picture that does not load: ${image.src}`);
  return faults;
}""".replace("SHORTEST", str(SHORTEST))
LINKS = '() => [...document.querySelectorAll("a[href]")].map(a => a.href)'
INDEX_IS_READY = '() => !/Initializing/.test(document.querySelector(".md-search-result__meta").textContent)'
PLACES = '() => [...document.querySelectorAll("[id]")].map(e => e.id)'


class Silent(SimpleHTTPRequestHandler):
    """Serves files without a line for each of them."""

    def log_message(self, *arguments: object) -> None:
        pass


def serve(site: Path) -> str:
    """The address at which the files of `site` are served: the search needs one."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/"


def look_at(page: Page, root: str, names: list[str], pictures: Path) -> Iterator[str]:
    """Open each page and take a picture; yields its faults."""
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(f"raises {error}"))
    page.on("request", lambda request: request.url.startswith((root, "data:")) or errors.append(f"loads {request.url}"))
    page.on("response", lambda response: response.status < 400 or errors.append(f"misses {response.url}"))
    for name in names:
        errors.clear()
        page.goto(root + name)
        yield from (f"{name} {fault}" for fault in [*page.evaluate(FAULTS_OF_A_PAGE), *errors])
        picture = pictures / f"{name.removesuffix('.html').replace('/', '_')}.png"
        page.screenshot(path=picture, full_page=True)


def dead_links(page: Page, root: str, names: list[str], site: Path) -> Iterator[str]:
    """Links inside of the site that lead nowhere."""
    links: dict[str, list[str]] = {}
    places: dict[str, set[str]] = {}
    for name in names:
        page.goto(root + name)
        links[name], places[name] = page.evaluate(LINKS), set(page.evaluate(PLACES))
    for name, targets in links.items():
        for target in sorted({link for link in targets if urljoin(root, link).startswith(root)}):
            file, place = urldefrag(target.removeprefix(root))
            file = unquote(file) or "index.html"
            if not (site / file).is_file():
                yield f"{name} links to {file}, which is not there"
            elif place and file in places and unquote(place) not in places[file] | {"__toc", "__search"}:
                yield f"{name} links to {file}#{place}, but {file} has no such place"


def failed_searches(page: Page, root: str) -> Iterator[str]:
    """Words that the search does not find on their page."""
    for word, name in SEARCHES.items():
        page.goto(root)
        box = page.get_by_role("textbox", name="Search")
        box.focus()
        # words that are typed before the index is there are lost
        page.wait_for_function(INDEX_IS_READY)
        box.press_sequentially(word)
        result = page.locator(f'.md-search-result__link[href*="{name}"]')
        try:
            result.first.wait_for(state="attached", timeout=10_000)
        except TimeoutError:
            yield f"the search for '{word}' does not find {name}"


def try_site(browser: Any, site: Path, pictures: Path) -> list[str]:
    """All faults."""
    root, faults = serve(site), []
    names = sorted(str(path.relative_to(site)) for path in site.rglob("*.html") if path.name != "404.html")
    for width, (across, down) in WIDTHS.items():
        (pictures / width).mkdir(parents=True, exist_ok=True)
        page = browser.new_page(viewport={"width": across, "height": down})
        faults += [f"{width}: {fault}" for fault in look_at(page, root, names, pictures / width)]
        page.close()
    page = browser.new_page()
    faults += [*dead_links(page, root, names, site), *failed_searches(page, root)]
    print(f"{len(names)} pages at {len(WIDTHS)} widths; pictures in {pictures}")
    return faults


def main(site: Path, pictures: Path) -> int:
    """Print all faults; the exit code."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        print("make test-docs needs Chromium, and there is none in PATH; install it: apt-get install chromium")
        return 1
    with sync_playwright() as playwright:
        # Chromium cannot confine processes that root starts
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        faults = try_site(browser, site, pictures)
        browser.close()
    print("\n".join(faults) or "no fault")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
