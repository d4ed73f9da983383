"""Configuration of the documentation."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from importlib.metadata import version as installed_version
from pathlib import Path

from click.testing import CliRunner

import nh2st
from nh2st._cli import main

sys.path.insert(0, str(Path(__file__).parent / "extensions"))
warnings.filterwarnings("ignore", module="sphinx_autodoc_typehints")  # its own calls of what Sphinx 10 will remove


def _help(*command: str) -> str:
    """Return what the command line says about itself, as a block of text."""
    return f"```text\n{CliRunner().invoke(main, [*command, '--help'], prog_name='nh2st').output}```"


project = "nh2st"
author = "nh2st developers"
copyright = f"2026, {author}"
version = release = installed_version(project)

extensions = [
    "myst_nb",
    "prose",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx_autodoc_typehints",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinxcontrib.bibtex",
    "sphinxcontrib.katex",
]

exclude_patterns = ["_build", "**.ipynb_checkpoints"]
templates_path = ["_templates"]
default_role = "literal"
nitpicky = True
# Names of other packages resolve only where their inventories are at hand; private classes in annotations have no page.
nitpick_ignore_regex = [("py:.*", r"(?!nh2st\b).*"), ("py:class", r"nh2st\..*\b_\w+\..*")]

autosummary_generate = True
autodoc_member_order = "bysource"
napoleon_google_docstring = False
typehints_defaults = "braces"
typehints_document_rtype_none = False
typehints_use_rtype = False
always_use_bars_union = True

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath", "substitution"]
myst_substitutions = {"help_main": _help(), "help_demo": _help("demo"), "help_predict": _help("predict")}
myst_heading_anchors = 3
nb_execution_mode = "off"
bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# Inventories are fetched only where the network is known to be there, so that the docs build offline without warnings.
intersphinx_mapping = {}
if os.environ.get("READTHEDOCS") or os.environ.get("DOCS_INTERSPHINX"):
    intersphinx_mapping = {
        "anndata": ("https://anndata.readthedocs.io/en/stable/", None),
        "matplotlib": ("https://matplotlib.org/stable/", None),
        "numpy": ("https://numpy.org/doc/stable/", None),
        "pandas": ("https://pandas.pydata.org/pandas-docs/stable/", None),
        "python": ("https://docs.python.org/3", None),
        "scanpy": ("https://scanpy.readthedocs.io/en/stable/", None),
        "scipy": ("https://docs.scipy.org/doc/scipy/", None),
        "spatialdata": ("https://spatialdata.scverse.org/en/stable/", None),
        "torch": ("https://docs.pytorch.org/docs/stable/", None),
    }

katex_options = "output: 'mathml'"  # drawn by the browser itself: no style sheet or font from elsewhere

html_theme = "sphinx_book_theme"
html_title = project
html_theme_options = {
    "navbar_persistent": [],  # the search is in the sidebar already
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
}


def _public_names() -> dict[str, str]:
    """Map where a class is defined to where it is documented."""
    names = {"spatialdata._core.spatialdata.SpatialData": "spatialdata.SpatialData"}
    for room in sorted(set(nh2st.__all__) - {"settings"}):
        module = importlib.import_module(f"nh2st.{room}")
        for name in module.__all__:
            item = getattr(module, name)
            if isinstance(item, type):
                names[f"{item.__module__}.{item.__qualname__}"] = f"{module.__name__}.{name}"
    return names


def setup(app) -> None:
    """Let type hints, which name the defining module, link to the public page."""
    names = _public_names()

    def resolve(app, env, node, contnode):
        if node.get("refdomain") != "py" or node["reftarget"] not in names:
            return None
        node["reftarget"] = names[node["reftarget"]]
        return env.domains["py"].resolve_xref(
            env, node["refdoc"], app.builder, node["reftype"], node["reftarget"], node, contnode
        )

    app.connect("missing-reference", resolve, priority=400)  # before intersphinx, which is at 500
