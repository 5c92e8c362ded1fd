"""Configuration of the documentation: `make docs` builds it from the Markdown pages in this folder."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import autobatch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

project = "autobatch"
author = "autobatch contributors"
copyright = author
release = version = autobatch.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "sphinx_click",
    "sphinx_copybutton",
    "sphinx_design",
]
# Docstrings put code between single backticks, as Markdown does.
default_role = "code"
exclude_patterns: list[str] = []
nitpicky = True
nitpick_ignore_regex = [("py:.*", ".*")]
linkcheck_timeout = 10

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
# Comments with a marker for the tests stand right above a block.
suppress_warnings = ["myst.header"]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_preserve_defaults = True

copybutton_prompt_text = "$ "
copybutton_line_continuation_character = "\\"

html_theme = "furo"
html_title = f"autobatch {release}"
html_static_path: list[str] = []
html_show_sourcelink = False
html_show_copyright = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"

# Pages of the repository that are part of the documentation, by their names there.
INCLUDED = {
    "../CHANGELOG.md": "changelog.md",
    "../CONTRIBUTING.md": "contributing.md",
    "../SECURITY.md": "security.md",
    "../benchmarks/README.md": "benchmarks.md",
    "../README.md": "index.md",
}


def setup(app: Any) -> None:
    """Register the steps before reading: included pages, and the reference of the JSON output."""
    app.connect("builder-inited", _write_generated)
    app.connect("source-read", _rewrite_links)
    app.connect("include-read", _rewrite_included_links)


def _write_generated(app: Any) -> None:
    folder = HERE / "generated"
    folder.mkdir(exist_ok=True)
    schema = json.loads((ROOT / "autobatch" / "storage" / "schema.json").read_text(encoding="utf-8"))
    (folder / "json.md").write_text(_schema_page(schema), encoding="utf-8")


def _rewrite_links(app: Any, page: str, source: list[str]) -> None:
    """Lead links between files of the repository to their pages here."""
    for file, target in INCLUDED.items():
        source[0] = source[0].replace(f"]({file}", f"]({target}")


def _rewrite_included_links(app: Any, path: Path, page: str, content: list[str]) -> None:
    """Lead links of an included page of the repository to their pages here."""
    content[0] = content[0].replace("](docs/", "](")
    for file, target in INCLUDED.items():
        content[0] = content[0].replace(f"]({file.removeprefix('../')}", f"]({target}")


def _schema_page(schema: dict[str, Any]) -> str:
    """A section for each record of the JSON output: its fields, their types, and its docstring."""
    lines = [
        "# JSON output",
        "",
        "The records of `--json`, `--save` and `autobatch.save`. This page is generated from the schema that "
        "the code writes.",
        "",
    ]
    for name, record in sorted(schema["$defs"].items()):
        lines += [f"## {name}", ""]
        description = record.get("description", "")
        lines += [_as_markdown(description), ""] if description else []
        if "enum" in record:
            lines += [", ".join(f"`{value}`" for value in record["enum"]), ""]
        fields = record.get("properties", {})
        if fields:
            lines += ["| field | type | default |", "|---|---|---|"]
            lines += [
                f"| `{field}` | {_type_name(value)} | {_default(value)} |" for field, value in fields.items()
            ]
            lines.append("")
    return "\n".join(lines)


def _as_markdown(text: str) -> str:
    return re.sub(r"(?<=\S) +", " ", text.replace("<", "&lt;"))


def _type_name(value: dict[str, Any]) -> str:
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in value:
        return " or ".join(_type_name(each) for each in value["anyOf"])
    if "enum" in value:
        return ", ".join(f"`{each}`" for each in value["enum"])
    if value.get("type") == "array":
        items = value.get("items")
        return f"list of {_type_name(items)}" if isinstance(items, dict) and items else "list"
    return str(value.get("type", "any"))


def _default(value: dict[str, Any]) -> str:
    return f"`{json.dumps(value['default'])}`" if "default" in value else "required"
