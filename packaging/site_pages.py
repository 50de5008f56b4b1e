"""Pages of the site that are made while it is built, and links that leave docs/ (see mkdocs.yml).

Nothing here is written twice: the home page is README.md, the command line comes from the parsers,
the study from its notebook.  A link to a page that is on the site leads there; a link to a source
file, which is not on the site, becomes the file's name.
"""

import argparse
import json
import posixpath
import re
from pathlib import Path
from typing import Any, Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from dpamt.cli.main import VERBS
from dpamt.cli.parsers import parsers

ROOT: Final = Path(__file__).parents[1]

MOVED: Final = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "examples/README.md": "examples.md",
    "docs/study/from-dmesg-to-decision.ipynb": "study.md",
}
"""Files of the checkout that are pages of the site, and the pages' names."""

API: Final = (
    ("The package", "dpamt.run.api", ("run_scenario",)),
    ("Scenarios", "dpamt.run.scenario", ("load_scenario", "Scenario")),
    ("Machines", "dpamt.platform.read_machine", ("read_machine",)),
    ("Designs", "dpamt.host.designs.load", ("load_design",)),
    ("What a design has", "dpamt.host.designs.base", ("Design",)),
    ("One machine by hand", "dpamt.run.world", ("World",)),
    ("The TDX module", "dpamt.module.module", ("TdxModule",)),
    ("The Linux side", "dpamt.host.core.kernel", ("Kernel",)),
    ("The facts of a run", "dpamt.run.facts", ("RunFacts",)),
    ("Errors", "dpamt.errors", ("DpamtError", "InputError", "Finding", "ModelError")),
)
"""Heading, module and names of what the API page documents, from the docstrings."""

_LINK: Final = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_FENCE: Final = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
_FETCHED: Final = re.compile(
    r"<(?:script|img|iframe)\b[^>]*\ssrc=[\"']?(https?:[^\"'\s>]+)"
    r"|<link\b(?=[^>]*stylesheet)[^>]*\shref=[\"']?(https?:[^\"'\s>]+)"
)
_SHOWN: Final = re.compile(r"^ *<!-- \$ .*? -->\n", re.MULTILINE)
"""What docs/shown.py reads; no reader needs it."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that no file of docs/ is."""
    made = {page: _text(ROOT / name) for name, page in MOVED.items()}
    made |= {"cli.md": command_line(), "api-reference.md": api_reference()}
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with links that lead somewhere on the site."""
    homes = {page: name for name, page in MOVED.items()}
    here = page.file.src_uri
    home = homes.get(here, f"docs/{here}")

    def led(match: re.Match[str]) -> str:
        return _led(match, home, here, files)

    markdown = _SHOWN.sub("", markdown)
    parts, last = [], 0
    for fence in _FENCE.finditer(markdown):
        parts += [_LINK.sub(led, markdown[last : fence.start()]), fence[0]]
        last = fence.end()
    return "".join([*parts, _LINK.sub(led, markdown[last:])])


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page without the roles of our docstrings, which are reStructuredText."""
    return re.sub(r":(?:func|mod|data|class|meth|attr):(?=<code>)", "", html)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """The page as it is; refused when it would fetch something from elsewhere."""
    if fetched := _FETCHED.search(output):
        raise PluginError(
            f"{page.file.src_uri}: fetches {fetched[1] or fetched[2]}; expected files of the site"
        )
    return output


def _led(match: re.Match[str], home: str, here: str, files: Files) -> str:
    image, text, target = match.groups()
    path, anchor = re.fullmatch(r"([^#]*)(#.*)?", target).groups("")  # type: ignore[union-attr]
    if not path or re.match(r"[a-z]+:", path):
        return match[0]
    whole = posixpath.normpath(posixpath.join(posixpath.dirname(home), path))
    if not (ROOT / whole).exists() and f"docs/{here}" == home:
        return match[0]  # of a page that is made: MkDocs checks it
    inside = MOVED.get(whole, whole.removeprefix("docs/"))
    for page in (inside, f"{inside}/README.md", f"{inside}/index.md"):
        if (whole in MOVED or whole.startswith("docs/")) and files.get_file_from_path(page):
            relative = posixpath.relpath(page, posixpath.dirname(here) or ".")
            return f"{image}[{text}]({relative}{anchor})"
    if not (ROOT / whole).exists():
        return match[0]  # a broken link: MkDocs says so
    return text if text.startswith("`") else f"{text} (`{whole}`)" * (text != whole) or f"`{whole}`"


def _text(path: Path) -> str:
    if path.suffix == ".ipynb":
        return notebook(json.loads(path.read_text(encoding="utf-8")))
    return path.read_text(encoding="utf-8")


def notebook(document: dict[str, Any]) -> str:
    """A notebook as a page: its texts, its code, what the code printed."""
    parts = []
    for cell in document["cells"]:
        source = "".join(cell["source"]).rstrip()
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            text = output.get("text") or output.get("data", {}).get("text/plain") or []
            if text:
                parts.append(f"```text\n{''.join(text).rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def command_line() -> str:
    """Every verb and option, from the parsers."""
    parts = [
        "# Command line",
        "Made from the parsers; `dpamt VERB --help` and `man dpamt-VERB` say the same. Exit codes: "
        "0 clean, 1 a finding, 2 bad usage or input, 3 dpamt itself is wrong, 130 interrupted. How "
        "files are written: [Files that dpamt writes](outputs.md).",
    ]
    for verb, parser in parsers().items():
        parts += [f"## dpamt {verb}", _escaped(f"{VERBS[verb][0].upper()}{VERBS[verb][1:]}.")]
        parts.append(_escaped(parser.description or ""))
        for group in parser._action_groups:
            rows = [_row(action) for action in group._group_actions if action.help is not None]
            rows = [row for row in rows if not row.startswith("| `-h`")]
            if rows:
                title = group.title or ""
                parts.append(f"**{_escaped(title[:1].upper() + title[1:])}**")
                parts.append("\n".join(["| argument | what |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _row(action: argparse.Action) -> str:
    """An option with what it takes, and its help."""
    choices = "{" + ",".join(map(str, action.choices)) + "}" if action.choices else ""
    value = action.metavar or choices or action.dest.upper()
    value = " ".join(value) if isinstance(value, tuple) else value
    shown = ", ".join(f"`{name}`" for name in action.option_strings)
    if not shown or action.nargs != 0:
        shown = f"{shown} `{value}`".strip()
    return f"| {shown} | {_escaped((action.help or '').replace('%%', '%'))} |"


def _escaped(text: str) -> str:
    """Plain text in Markdown, with the names of pages as links."""
    text = re.sub(r"([*_|<\[])", r"\\\1", " ".join(text.split()))
    return re.sub(r"docs/([a-z-]+\.md)", r"[\1](\1)", text)


def api_reference() -> str:
    """The names of the package, from their docstrings (mkdocstrings)."""
    parts = [
        "# Python API",
        "From the docstrings. [By example](api.md) shows how the names are used together.",
    ]
    for title, module, names in API:
        parts.append(f"## {title}")
        parts += [f"::: {module}.{name}\n    options:\n      heading_level: 3" for name in names]
    return "\n\n".join(parts) + "\n"
