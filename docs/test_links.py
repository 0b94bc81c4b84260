"""Every link of the built site leads somewhere: to a page and a place on it, or to an address that answers."""

import os
from collections import defaultdict
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.error import URLError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

import pytest

SITE = Path(__file__).parents[1] / "build" / "docs"

pytestmark = pytest.mark.skipif(not SITE.is_dir(), reason="The site is not built: ./run docs")


class Page(HTMLParser):
    """What a page links to, and what on it can be linked to."""

    def __init__(self, path):
        super().__init__()
        self.links, self.places = set(), set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.places |= {given.get("id"), given.get("name")} - {None}
        self.links |= {given.get("href") if tag in ("a", "link") else given.get("src")} - {None}


read = cache(Page)


def links():
    """Yield each page and each link on it, in parts."""
    for path in sorted(SITE.rglob("*.html")):
        for link in sorted(read(path).links):
            yield path, link, urlsplit(link)


def test_links_within_the_site_lead_somewhere():
    """To a file, and if they name a place on a page, to that."""
    lost = []
    for path, link, parts in links():
        if parts.scheme or parts.netloc:
            continue
        target = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
        if target.is_dir():
            target /= "index.html"
        is_page = target.suffix == ".html" and target.is_file()
        if not target.is_file() or (is_page and parts.fragment and unquote(parts.fragment) not in read(target).places):
            lost.append((str(path.relative_to(SITE)), link))
    assert [] == lost


def test_links_out_of_the_site_are_encrypted():
    """Nothing is linked to that somebody in between could change."""
    assert [] == [(str(path.relative_to(SITE)), link) for path, link, parts in links() if parts.scheme == "http"]


@pytest.mark.skipif("POSTBUS_TEST_LINKS" not in os.environ, reason="POSTBUS_TEST_LINKS=1 asks the addresses.")
@pytest.mark.timeout(900)
def test_links_out_of_the_site_answer():
    """Each address once, with its pages if it does not."""
    on = defaultdict(set)
    for path, _, parts in links():
        if parts.scheme == "https":
            on[parts._replace(fragment="").geturl()].add(str(path.relative_to(SITE)))
    lost = {}
    for address, pages in on.items():
        try:
            with urlopen(Request(address, headers={"User-Agent": "Mozilla/5.0"}), timeout=30):
                pass
        except (URLError, TimeoutError) as error:
            lost[address] = (str(error), sorted(pages))
    assert {} == lost
