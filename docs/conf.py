"""How the documentation is built: ``./run docs``.

Its source is the whole repository, so that a link from one page to another is the same here and on a forge: the pages
in ``docs/``, and each README that they lead to.
"""

import os
import sys
from pathlib import Path

from postbus import __version__

sys.path.insert(0, str(Path(__file__).parent))

project = "Postbus"
author = "the Postbus maintainers"
copyright = author
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.intersphinx", "sphinx_click", "extension"]
root_doc = "docs/index"
include_patterns = [
    "docs/*.md",
    "plugins/*/README.md",
    "examples/*/README.md",
    "benchmarks/README.md",
    "CONTRIBUTING.md",
    "README.md",
]
exclude_patterns = [".*", "build", "dist", "**/src", "**/tests", "plugin-template", "findings"]

# Nothing is fetched while the site is built, unless this says where: the address of Python's inventory, or a file.
python_inventory = os.environ.get("POSTBUS_DOCS_PYTHON")
intersphinx_mapping = {"python": ("https://docs.python.org/3", python_inventory)} if python_inventory else {}

nitpicky = True
nitpick_ignore_regex = [
    # Names of other libraries are no links, but for those in Python's inventory.
    (r"py:.*", r"(?!postbus).*"),
    (r"py:class", r"postbus\.[\w.]+\.[A-Z]"),  # A variable for a type.
    # Parts that nobody calls.
    (
        r"py:(class|obj)",
        r"postbus\.(config|failures|provided|queue_transport|time_limits|worker|testing\.subject)(\..*)?",
    ),
]
myst_heading_anchors = 4
myst_enable_extensions = ["attrs_block"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "undoc-members": True, "show-inheritance": True}
python_use_unqualified_type_names = True
default_role = "postbus"
smartquotes = False  # It would make one dash of the two before an option.

html_theme = "furo"
html_title = "Postbus"
html_copy_source = False
