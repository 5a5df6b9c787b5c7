"""How Sphinx builds the site: `nox -s docs` builds it and checks it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import attrs
from docutils import nodes
from sphinx import addnodes
from sphinx.ext.napoleon import Config, GoogleDocstring

from qsessions import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from sphinx.application import Sphinx

project = "qsessions"
author = "qsessions maintainers"
copyright = author  # noqa: A001 - Sphinx's name
release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
# The anchors that the pages' links use, as a repository's own pages have them.
myst_heading_anchors = 4

# A word in backticks is a link where it is a public name, else code.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_mock_imports = ["qiskit_ibm_runtime", "temporalio"]
add_module_names = False
python_display_short_literal_types = True
maximum_signature_line_length = 80

html_theme = "furo"
html_title = f"qsessions {release}"
html_favicon = "icon.svg"
html_show_sphinx = False

# What docstrings refer to by its file, and the page about it.
_PAGES = {
    "docs/configuration.md": ":doc:`Settings </configuration>`",
    "docs/testing.md": ":doc:`Testing code that waits </testing>`",
    "errors.py": ":doc:`Errors </reference/errors>`",
    "events.py": ":doc:`Events and logging </reference/events>`",
    "ledger/verdicts.py": ":doc:`The command line </command-line>`",
}
# An attribute and what is said of it, with its type at the end; and the modules before a type.
_ATTRIBUTE = re.compile(r"\.\. attribute:: (\w+)\n((?:   .*\n|\n)*)")
_TYPE = re.compile(r"(.*?)(   :type: .*\n)", re.DOTALL)
_MODULES = re.compile(r"\b(?:[a-z_]+\.)+(?=\w)")


def _quoted(match: re.Match[str]) -> str:
    # More than a name is code, of which Sphinx would drop a part.
    return match[0] if re.fullmatch(r"[\w.]*\w", match[2]) else f"``{match[2]}``"


def _docstring(  # noqa: PLR0917 - Sphinx calls it so
    app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    text = re.sub(r"(`+)(.+?)\1", _quoted, "\n".join(lines), flags=re.DOTALL)
    for file, page in _PAGES.items():
        text = text.replace(file, page)
    # Else it takes what is before a colon for a property's type.
    kind = "object" if what in {"attribute", "property"} else what
    read = "\n".join(GoogleDocstring(text, Config(), app, kind, name, thing, options).lines())

    def attribute(match: re.Match[str]) -> str:
        if isinstance(getattr(thing, match[1], None), property):
            # It has a docstring of its own.
            return ""
        # The type goes beside the name.
        text = _TYPE.sub(lambda found: _MODULES.sub("", found[2]) + found[1], match[2])
        return f".. attribute:: {match[1]}\n{text}"

    lines[:] = _ATTRIBUTE.sub(attribute, read).split("\n")


def _signature(  # noqa: PLR0917 - Sphinx calls it so
    app: Sphinx,
    what: str,
    name: str,
    thing: Any,
    options: Any,
    arguments: str | None,
    result: str | None,
) -> tuple[str | None, str | None]:
    if what == "exception":
        # Nobody but qsessions makes them.
        return "", None

    def default(match: re.Match[str]) -> str:
        value = getattr(attrs.fields_dict(thing)[match[1]], "default", ...)
        return "..." if callable(value) else repr(value)

    # What attrs writes in place of a default.
    text = re.sub(r"attr_dict\['(\w+)'\]\.default", default, arguments or "")
    return text.replace("NOTHING", "...") or None, result


def _included(app: Sphinx, path: Path, page: str, content: list[str]) -> None:
    # A page of the repository's root: its links to docs/ hold here too, others lead nowhere.
    content[0] = re.sub(r"\]\(docs/", "](", content[0])
    content[0] = re.sub(r"\[([^]]*)\]\([A-Zb][\w/]*\.md[^)]*\)", r"\1", content[0])


def _llms(app: Sphinx, error: Exception | None) -> None:
    """Write llms.txt: what each page is about, for programs that read documentation."""
    if error or app.builder.name != "html":
        return
    lines = [f"# {project}"]
    for tree in app.env.get_doctree("index").findall(addnodes.toctree):
        lines += ["", f"## {tree['caption']}", ""]
        for _, page in tree["entries"]:
            first = next(app.env.get_doctree(page).findall(nodes.paragraph), nodes.paragraph())
            about = " ".join(first.astext().split())
            lines.append(f"- [{app.env.titles[page].astext()}]({page}.html): {about}")
    about = next(app.env.get_doctree("index").findall(nodes.paragraph)).astext()
    lines.insert(1, "\n> " + " ".join(about.split()))
    (app.outdir / "llms.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def setup(app: Sphinx) -> None:
    """Have docstrings in Google's style read, and pages of the repository's root."""
    app.connect("build-finished", _llms)
    app.connect("include-read", _included)
    app.connect("autodoc-process-docstring", _docstring)
    app.connect("autodoc-process-signature", _signature)
