"""Settings of the site: `make docs` builds it, and fails on a broken link or reference. Nothing is fetched."""

from __future__ import annotations

import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config, GoogleDocstring

from crystalpredict import __version__

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
REPOSITORY = "https://github.com/crystalpredict/crystalpredict/blob/main/"

project = "crystalpredict"
author = "The crystalpredict developers"
copyright = author
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary"]
exclude_patterns = ["_templates"]
templates_path = ["_templates"]
html_theme = "furo"
html_title = "crystalpredict"
html_theme_options = {
    "source_repository": "https://github.com/crystalpredict/crystalpredict/",
    "source_branch": "main",
    "source_directory": "docs/",
}
highlight_language = "none"  # of indented blocks: commands, formulas and messages

myst_heading_anchors = 3
suppress_warnings = [
    "myst.header",  # cards and docs/cli.md, which are made by programs, leave out a level
    "ref.python",  # public names are documented twice, in api.md and where they are defined
]

autosummary_generate = True
autodoc_default_options = {"member-order": "bysource"}
autodoc_type_aliases = {name: name for name in ("FloatArray", "IntArray", "BoolArray")}
autodoc_mock_imports = ["triton"]  # Linux alone has it
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
NAPOLEON = Config(napoleon_numpy_docstring=False, napoleon_use_rtype=False)

# types of other projects, and our private ones; our public classes must be found
nitpick_ignore_regex = [
    (r"py:.*", r"(?!crystalpredict\.).*"),
    (
        r"py:(class|obj)",
        r"crystalpredict\.(\w+\.)*(_\w+|Array|Item|Line|Result|Row)",
    ),  # private; type variables
]


def link_out_of_docs(app: Sphinx, docname: str, content: list[str]) -> None:
    """Point links that leave docs/, as the pages have them on GitHub, to the cards of the site or to the repository."""
    page = Path(app.env.doc2path(docname))

    def target(found: re.Match[str]) -> str:
        path = (page.parent / found[1]).resolve()
        if path.is_relative_to(DOCS) or not path.exists():  # the latter is reported as a broken link
            return found[0]
        inside = path.relative_to(ROOT)
        if inside.parts[0] == "models" and inside.name == "README.md":
            return f"](/cards/{inside.parts[1]}.md"
        return f"]({REPOSITORY}{inside.as_posix()}"

    content[0] = re.sub(r"\]\((\.\./[^)#\s]+)", target, content[0])


def google_docstring(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Make reStructuredText of a docstring: no markup but backticks and sections, which attributes do not have."""
    blocks = "\n".join(lines).split("\n\n")
    for number, block in enumerate(blocks):
        if what == "module" and re.search(r"\S {2,}\S", block):  # columns
            blocks[number] = "::\n\n" + textwrap.indent(block, "    ")
            continue
        parts = re.split(r"``?([^`]+)``?", block)
        parts[::2] = [re.sub(r"([*|]|(?<=\w)_(?!\w))", r"\\\1", text) for text in parts[::2]]
        parts[1::2] = [f"``{' '.join(text.split())}``" for text in parts[1::2]]
        blocks[number] = "".join(parts)
    text = "\n\n".join(blocks).split("\n")
    sections = what not in ("attribute", "data", "property")
    lines[:] = GoogleDocstring(text, NAPOLEON, app, what, name, thing, options).lines() if sections else text


def short_signature(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, arguments: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Show aliases of arrays by their names, and no option of a command: docs/cli.md has these."""
    del app, what, name, thing, options

    def short(text: str | None) -> str | None:
        return text and re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", text)

    return "(...)" if arguments and "Annotated[" in arguments else short(arguments), short(returned)


def skip_fields(app: Sphinx, what: str, name: str, thing: Any, skip: bool, options: Any) -> bool | None:
    """Leave out what the `Attributes:` of a class describe: fields of a NamedTuple, functions that are a default."""
    del app, what, skip, options
    default = inspect.isfunction(thing) and thing.__name__ != name
    return True if default or type(thing).__name__ == "_tuplegetter" else None


def setup(app: Sphinx) -> None:
    """Connect these functions to Sphinx."""
    app.connect("source-read", link_out_of_docs)
    app.connect("autodoc-process-docstring", google_docstring)
    app.connect("autodoc-process-signature", short_signature)
    app.connect("autodoc-skip-member", skip_fields)
