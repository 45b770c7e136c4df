"""Build the site: tutorials and API reference as static pages that open from disk, without a server or a network.

    python docs/make_site.py [FOLDER]        default: site/

Formulas become MathML, which browsers draw themselves; pictures lie inside the pages. At the end every local link and
picture of every page is looked up; a missing one is an error.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
CSS = (Path(__file__).parent / "site.css").read_text(encoding="utf-8")
FOLDED = {"solution": "Solution", "setup": "Set-up for Binder and Colab"}


def markdown(text: str) -> str:
    """Render Markdown with formulas; links to notebooks and sources lead to their pages."""
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

    renderer = MarkdownIt("commonmark", {"html": True}).enable("table")
    dollarmath_plugin(renderer, renderer=formula, double_inline=True)
    page = renderer.render(text)
    page = re.sub(r'href="(\d\d_\w+)\.ipynb"', r'href="\1.html"', page)
    page = re.sub(r'href="\.\./svd_numpy/([\w/]+)\.py"', r'href="api/svd_numpy/\1.html"', page)
    return re.sub(r"(<table>.*?</table>)", r'<div class="wide">\1</div>', page, flags=re.DOTALL)


def highlight(code: str) -> str:
    """Colour Python code."""
    from pygments import highlight as colour
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    return colour(code, PythonLexer(), HtmlFormatter())


def code_cell(cell: dict[str, Any]) -> str:
    """A code cell with what it showed."""
    parts = [highlight("".join(cell["source"]))]
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


def page(title: str, body: str) -> str:
    """A whole page."""
    from pygments.formatters import HtmlFormatter

    colours = HtmlFormatter(style="default").get_style_defs(".highlight")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{CSS}\n{colours}\n</style>\n</head>\n<body>\n"
        '<nav><a href="index.html">svd_numpy: tutorials</a> <a href="api/svd_numpy.html">API reference</a></nav>\n'
        f"<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def build_tutorials(site: Path) -> None:
    """Write the pages of the notebooks and the map."""
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        texts = ["".join(cell["source"]) for cell in cells]
        parts = [
            markdown(text) if cell["cell_type"] == "markdown" else code_cell(cell)
            for cell, text in zip(cells, texts, strict=True)
        ]
        title = texts[0].splitlines()[0].removeprefix("# ")
        (site / f"{path.stem}.html").write_text(page(title, "\n".join(parts)), encoding="utf-8")
    text = (NOTEBOOKS / "README.md").read_text(encoding="utf-8")
    (site / "index.html").write_text(page("svd_numpy: tutorials", markdown(text)), encoding="utf-8")
    for folder in ("pictures", "src"):
        shutil.copytree(NOTEBOOKS / folder, site / folder, ignore=shutil.ignore_patterns("__pycache__"))


def build_reference(site: Path) -> None:
    """Write the API reference, from docstrings."""
    import pdoc.extract
    import pdoc.render

    pdoc.render.configure(docformat="numpy", footer_text="svd_numpy: Sparse Variational Dropout", search=True)
    specs = ["svd_numpy"]  # pdoc goes into a package by itself, unless the package has `__all__`; then name the modules
    for path in sorted((ROOT / "svd_numpy").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if not path.name.startswith("_") and name not in pdoc.extract.walk_specs(specs):
            specs.append(name)
    with warnings.catch_warnings():  # fields of a NamedTuple, whose constructor has no module to look their types up in
        warnings.filterwarnings("ignore", message="Error parsing type annotation ForwardRef")
        pdoc.pdoc(*specs, output_directory=site / "api")


def missing_links(site: Path) -> list[str]:
    """Local links and pictures that lead nowhere, as "page: link"."""
    missing = []
    for path in sorted(site.rglob("*.html")):
        text = re.sub(r"<script.*?</script>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        for link in re.findall(r'(?:href|src)="([^"]*)"', text):
            target = unquote(html.unescape(link)).split("#")[0]
            if target and not re.match(r"(?:https?|data|mailto):", target) and not (path.parent / target).exists():
                missing.append(f"{path.relative_to(site)}: {link}")
    return missing


def main() -> None:
    """Build into an empty folder and check it."""
    site = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "site"
    if site.exists() and any(site.iterdir()) and not (site / "index.html").exists():
        raise SystemExit(f"{site} is not empty and no site of ours: give another folder")
    shutil.rmtree(site, ignore_errors=True)
    site.mkdir(parents=True)
    build_tutorials(site)
    build_reference(site)
    if missing := missing_links(site):
        raise SystemExit("these lead nowhere:\n" + "\n".join(missing))
    print(f"open {site / 'index.html'}")


if __name__ == "__main__":
    main()
