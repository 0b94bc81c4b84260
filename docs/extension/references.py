"""Names in single backticks, as docstrings have them: links where this site says more, and code elsewhere."""

import builtins
import re

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.roles import XRefRole

NAME = re.compile(r"[A-Za-z_][\w.]*(\(\))?")


class Name(XRefRole):
    """A reference to what may or may not be on this site; a whole name, ``postbus.…``, must be there."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        if not NAME.fullmatch(self.text):
            return [nodes.literal(self.rawtext, self.text, classes=["code"])], []
        self.name = "py:obj"  # What kind of thing it is, is for the site to find.
        return super().run()

    def process_link(
        self, env: BuildEnvironment, refnode: nodes.Element, has_explicit_title: bool, title: str, target: str
    ) -> tuple[str, str]:
        refnode["refspecific"] = True
        refnode["is_hint"] = not target.startswith("postbus.")
        refnode["py:module"] = env.ref_context.get("py:module")
        refnode["py:class"] = env.ref_context.get("py:class")
        return title, target.removesuffix("()")


def leave_as_code(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Node) -> nodes.Node | None:
    """Show a name that nothing on this site is about as what it is."""
    return content if node.get("is_hint") else None


def leave_builtins(app: Sphinx, doctree: nodes.document) -> None:
    """Show a built-in name in an annotation as what it is; a field of some class may have the same one."""
    for reference in list(doctree.findall(pending_xref)):
        if reference["refdomain"] == "py" and hasattr(builtins, str(reference["reftarget"])):
            reference.replace_self(nodes.Text(str(reference["reftarget"])))


def leave_out_aliases(app: Sphinx, kind: str, name: str, subject: object, options: object, lines: list[str]) -> None:
    """Say nothing where Python itself has written a docstring, for the fields of a named tuple."""
    if lines and lines[0].startswith("Alias for field number"):
        lines.clear()


def setup(app: Sphinx) -> None:
    """Add the role, which is the default one of reStructuredText here."""
    app.add_role("postbus", Name(innernodeclass=nodes.literal))
    app.connect("autodoc-process-docstring", leave_out_aliases)
    app.connect("doctree-read", leave_builtins)
    app.connect("missing-reference", leave_as_code)
