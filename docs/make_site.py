"""Build the site: README, guide, tutorials and API reference as static pages that open from disk, without a server.

    python docs/make_site.py [FOLDER]        default: site/

The site has the paths of the repository, so that a link leads to the same place here and on a code host:
`docs/guide/train.md` becomes `docs/guide/train.html`, a README.md the index.html of its folder, a notebook a page. A
module of the package leads to its page in the API reference, and any other file that a page links to is copied. Pages
are found by following links from README.md.

Formulas become MathML, which browsers draw themselves. At the end every local link and picture of every page is looked
up; a missing one is an error.
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parents[1]
CSS = (Path(__file__).parent / "site.css").read_text(encoding="utf-8")
HOME, GUIDE, TUTORIALS = Path("README.md"), Path("docs/guide/README.md"), Path("notebooks/README.md")
MENU = {"svd_numpy": HOME, "Guide": GUIDE, "Tutorials": TUTORIALS, "API reference": Path("svd_numpy/__init__.py")}
PAGES = (".md", ".ipynb")
LANGUAGES = ("python", "sh", "bibtex")
FOLDED = {"tools": "Blanks and hints", "setup": "Set-up for Binder and Colab"}


def place(source: Path) -> Path:
    """Where a file of the repository is found in the site; both relative to their roots."""
    if source.name == "README.md":
        return source.with_name("index.html")
    if source.suffix in PAGES:
        return source.with_suffix(".html")
    if source.parts[:1] == ("svd_numpy",) and source.suffix == ".py":
        module = source.parent if source.name == "__init__.py" else source.with_suffix("")
        return Path("api", f"{module}.html")
    return source


def link(source: Path, target: Path) -> str:
    """How the page of one file links to the page of another."""
    return Path(os.path.relpath(place(target), place(source).parent)).as_posix()


def relink(body: str, source: Path) -> tuple[str, list[Path]]:
    """Let the links of a page lead to pages; also return the files of the repository that it links to."""
    targets = list[Path]()

    def lead(match: re.Match[str]) -> str:
        attribute, path, fragment = match[1], unquote(html.unescape(match[2])), match[3] or ""
        if not path or re.match(r"\w+:", path):
            return match[0]
        target = Path(os.path.normpath(source.parent / path))
        targets.append(target)
        return f'{attribute}="{html.escape(link(source, target))}{fragment}"'

    return re.sub(r'\b(href|src)="([^"#]*)(#[^"]*)?"', lead, body), targets


def markdown(text: str) -> str:
    """Render Markdown with formulas and coloured code."""
    from latex2mathml.converter import convert
    from markdown_it import MarkdownIt
    from mdit_py_plugins.dollarmath import dollarmath_plugin

    def formula(latex: str, options: dict[str, Any]) -> str:
        # Constructs that the converter does not know, in terms of those that it does.
        latex = re.sub(r"\\boxed\{\\ (.*)\\ \}\s*$", r"\1", latex.strip(), flags=re.DOTALL)
        latex = latex.replace(r"\tfrac12", r"\frac{1}{2}").replace(r"\tfrac", r"\frac")
        mathml = convert(latex, display="block" if options["display_mode"] else "inline")
        # A bar is taken for a relation; without its spaces it is that of |x|.
        return mathml.replace('<mo stretchy="false">&#x0007C;', '<mo stretchy="false" lspace="0" rspace="0">&#x0007C;')

    def fence(code: str, language: str, attributes: str) -> str:
        return highlight(code, language) if language in LANGUAGES else ""

    text = re.sub(r"^```math\n(.*?)^```$", r"$$\n\1$$", text, flags=re.MULTILINE | re.DOTALL)
    renderer = MarkdownIt("commonmark", {"html": True, "highlight": fence}).enable("table")
    dollarmath_plugin(renderer, renderer=formula, double_inline=True)
    page = renderer.render(text)
    return re.sub(r"<table>.*?</table>", table, page, flags=re.DOTALL)


def table(match: re.Match[str]) -> str:
    """Let a wide table scroll; figures that belong together stay on one line."""
    unbroken = match[0].replace(" ± ", "&nbsp;±&nbsp;").replace(" -&gt; ", "&nbsp;→&nbsp;")
    return f'<div class="wide">{unbroken}</div>'


def highlight(code: str, language: str) -> str:
    """Colour code."""
    from pygments import highlight as colour
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import get_lexer_by_name

    return f'<pre class="highlight">{colour(code, get_lexer_by_name(language), HtmlFormatter(nowrap=True))}</pre>'


def code_cell(cell: dict[str, Any]) -> str:
    """A code cell with what it showed; long code of a picture is folded, the picture is not."""
    parts = [highlight("".join(cell["source"]), "python")]
    if "picture" in cell["metadata"].get("tags", []):
        parts = [f"<details><summary>Code of this picture</summary>\n{parts[0]}\n</details>"]
    for output in cell["outputs"]:
        data = output.get("data", {})
        if "image/png" in data:
            parts.append(
                f'<img class="output" alt="output of the cell above" src="data:image/png;base64,{data["image/png"]}">'
            )
        else:
            text = "".join(output.get("text", data.get("text/plain", "")))
            parts.append(f'<pre class="output">{html.escape(text)}</pre>')
    body = "\n".join(parts)
    for tag, summary in FOLDED.items():
        if tag in cell["metadata"].get("tags", []):
            return f"<details><summary>{summary}</summary>\n{body}\n</details>"
    return body


def cells(source: Path) -> list[dict[str, Any]]:
    """The cells of a notebook; a Markdown file is one cell."""
    text = (ROOT / source).read_text(encoding="utf-8")
    return json.loads(text)["cells"] if source.suffix == ".ipynb" else [{"cell_type": "markdown", "source": [text]}]


def title(source: Path) -> str:
    """The first heading of a page."""
    return "".join(cells(source)[0]["source"]).splitlines()[0].removeprefix("# ")


def neighbours(source: Path) -> str:
    """Links to the pages before and after, in the order of the guide's or the tutorials' own list."""
    if source.parent not in (GUIDE.parent, TUTORIALS.parent):
        return ""
    index = source.with_name("README.md")
    listed = re.findall(r"\]\(([\w-]+\.(?:md|ipynb))\)", (ROOT / index).read_text(encoding="utf-8"))
    order = [index, *dict.fromkeys(index.with_name(name) for name in listed)]
    at = order.index(source)
    before = [f'<a rel="prev" href="{link(source, page)}">← {html.escape(title(page))}</a>' for page in order[:at][-1:]]
    after = [
        f'<a rel="next" href="{link(source, page)}">{html.escape(title(page))} →</a>' for page in order[at + 1 :][:1]
    ]
    return f'<div class="neighbours">{"".join(before + after)}</div>'


def render(source: Path) -> tuple[str, list[Path]]:
    """The page of a file, and the files of the repository that it links to."""
    from pygments.formatters import HtmlFormatter

    parts = [
        markdown("".join(cell["source"])) if cell["cell_type"] == "markdown" else code_cell(cell)
        for cell in cells(source)
    ]
    body, targets = relink("\n".join(parts), source)
    menu = " ".join(f'<a href="{link(source, page)}">{name}</a>' for name, page in MENU.items())
    name = title(source) if source == HOME else f"{title(source)} - svd_numpy"
    colours = HtmlFormatter(style="default").get_style_defs(".highlight")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(name)}</title>\n<style>\n{CSS}\n{colours}\n</style>\n</head>\n<body>\n"
        f"<nav>{menu}</nav>\n<main>\n{body}\n{neighbours(source)}\n</main>\n</body>\n</html>\n"
    ), targets


def build_pages(site: Path) -> None:
    """Write README.md and every page that can be reached from it; copy the pictures and files that they link to."""
    waiting, seen = [HOME], {HOME}
    while waiting:
        source = waiting.pop()
        target = site / place(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix in PAGES:
            text, links = render(source)
            target.write_text(text, encoding="utf-8")
            found = dict.fromkeys(path for path in links if path not in seen and (ROOT / path).exists())
            waiting += found
            seen |= found.keys()
        elif (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        elif place(source) == source:
            shutil.copyfile(ROOT / source, target)


def build_reference(site: Path) -> None:
    """Write the API reference, from docstrings."""
    import pdoc.extract
    import pdoc.render

    pdoc.render.configure(docformat="numpy", footer_text="svd_numpy: Sparse Variational Dropout", search=True)
    specs = ["svd_numpy"]  # pdoc goes into a package by itself, unless the package has `__all__`; then name the modules
    for path in sorted((ROOT / "svd_numpy").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        public = path.name == "__init__.py" or not path.name.startswith("_")
        if public and name not in pdoc.extract.walk_specs(specs):
            specs.append(name)
    with warnings.catch_warnings():  # fields of a NamedTuple, whose constructor has no module to look their types up in
        warnings.filterwarnings("ignore", message="Error parsing type annotation ForwardRef")
        pdoc.pdoc(*specs, output_directory=site / "api")


def missing_links(site: Path) -> list[str]:
    """Local links and pictures that lead nowhere, as "page: link"."""
    missing = []
    for path in sorted(site.rglob("*.html")):
        text = re.sub(r"<script.*?</script>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        for found in re.findall(r'(?:href|src)="([^"]*)"', text):
            target = unquote(html.unescape(found)).split("#")[0]
            inside = (path.parent / target).resolve().is_relative_to(site.resolve())
            if target and not re.match(r"\w+:", target) and not (inside and (path.parent / target).exists()):
                missing.append(f"{path.relative_to(site)}: {found}")
    return missing


def main() -> None:
    """Build into an empty folder and check it."""
    site = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "site"
    if site.exists() and any(site.iterdir()) and not (site / "index.html").exists():
        raise SystemExit(f"{site} is not empty and no site of ours: give another folder")
    shutil.rmtree(site, ignore_errors=True)
    build_pages(site)
    build_reference(site)
    if missing := missing_links(site):
        raise SystemExit("these lead nowhere:\n" + "\n".join(missing))
    print(f"open {site / 'index.html'}")


if __name__ == "__main__":
    main()
