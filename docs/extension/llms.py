"""``llms.txt``: what the site has, in one small file for programs that read (https://llmstxt.org)."""

from collections.abc import Iterator
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

LONGEST = 300
"""Characters of a page's first paragraph."""

FORWARD = """\
<!doctype html>
<meta charset="utf-8">
<meta http-equiv="refresh" content="0; url={url}">
<a href="{url}">Postbus</a>
"""
"""The page at the root of the site, which leads to the first one."""


def write(app: Sphinx, error: Exception | None) -> None:
    """Write the file, and the page at the root, beside what was built."""
    if error is None and app.builder.format == "html":
        root = app.config.root_doc
        Path(app.outdir, "llms.txt").write_text("\n".join(lines(app.env, root)) + "\n", encoding="utf-8")
        Path(app.outdir, "index.html").write_text(FORWARD.format(url=f"{root}.html"), encoding="utf-8")


def lines(env: BuildEnvironment, root: str) -> Iterator[str]:
    """Yield a title, a summary, and for each table of contents its pages, each with how it begins."""
    yield f"# {env.titles[root].astext()}"
    yield f"\n> {beginning(env, root)}"
    for toctree in env.get_doctree(root).findall(addnodes.toctree):
        yield f"\n## {toctree['caption']}\n"
        for _, page in toctree["entries"]:
            yield f"- [{env.titles[page].astext()}]({page}.html): {beginning(env, page)}"


def beginning(env: BuildEnvironment, page: str) -> str:
    """Return the first paragraph of a page."""
    text = next((found.astext() for found in env.get_doctree(page).findall(nodes.paragraph)), "")
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else text[:LONGEST].rpartition(" ")[0] + " …"


def setup(app: Sphinx) -> None:
    """Write when all else is."""
    app.connect("build-finished", write)
