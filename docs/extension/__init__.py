"""What this site adds to Sphinx: generated pages, names in docstrings that are links, and ``llms.txt``."""

from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata

from extension import commands, llms, markers, references


def setup(app: Sphinx) -> ExtensionMetadata:
    """Connect all parts."""
    for part in (commands, markers, references, llms):
        part.setup(app)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
