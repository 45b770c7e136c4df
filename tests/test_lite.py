"""The JupyterLite site: tutorials that need no Numba, whose first cell installs the wheel that the site holds."""

from __future__ import annotations

import functools
import hashlib
import http.server
import importlib.util
import json
import sys
import threading
import zipfile
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))

import make_lite  # noqa: E402


def test_tutorials_install_the_package_and_those_with_numba_are_left_out(tmp_path: Path) -> None:
    names = make_lite.write_contents(tmp_path / "contents")
    tutorials = {path.name for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert tutorials - {*names} == {"06_make_it_fast.ipynb", "07_think_like_a_gpu.ipynb"}
    for name in names:
        notebook = json.loads((tmp_path / "contents" / name).read_text(encoding="utf-8"))
        code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        assert "".join(code[0]["source"]) == "%pip install --quiet svd-numpy ipywidgets", name
        assert notebook["metadata"]["kernelspec"]["name"] == "python"
        assert "subprocess.run([sys.executable" not in make_lite.code_of(notebook), name
        assert "import os" in "".join(code[1]["source"]), "what the replaced cell imported is imported again"
        assert (tmp_path / "contents" / "solutions" / f"{Path(name).stem}.py").exists()


def test_a_folder_with_other_files_is_not_built_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["make_lite.py", str(tmp_path)])
    with pytest.raises(SystemExit, match="no site of ours"):
        make_lite.main()
    assert (tmp_path / "mine.txt").exists()


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("jupyterlite_core") is None,
    reason="JupyterLite is not installed: pip install 'svd-numpy[lite]'",
)
def test_the_site_holds_the_wheel_and_opens_in_a_browser(tmp_path: Path) -> None:
    """Up to where the browser asks Pyodide's own server for Python, which tests do without."""
    site = tmp_path / "site"
    names = make_lite.build(site)
    index = json.loads((site / "pypi" / "all.json").read_text(encoding="utf-8"))
    (release,) = index["svd-numpy"]["releases"].values()
    wheel = site / "pypi" / release[0]["filename"]
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() == release[0]["digests"]["sha256"]
    with zipfile.ZipFile(wheel) as inside:
        (metadata,) = (name for name in inside.namelist() if name.endswith("METADATA"))
        assert "numba>=0.62; sys_platform != 'emscripten'" in inside.read(metadata).decode().replace('"', "'")
    listed = json.loads((site / "api" / "contents" / "all.json").read_text(encoding="utf-8"))["content"]
    assert sorted(entry["name"] for entry in listed if entry["name"] != "solutions") == names
    if CHROMIUM is None:
        pytest.skip("no Chromium or Chrome is installed")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        home = f"http://127.0.0.1:{server.server_port}"
        with Browser(tmp_path / "profile") as browser:
            browser.send("Page.navigate", url=f"{home}/lab/index.html?path={names[0]}")
            browser.until("document.querySelectorAll('.jp-DirListing-item').length >= 8")
            browser.until("document.querySelectorAll('.jp-Notebook .jp-Cell').length > 5")
            assert browser.run("document.querySelector('.jp-NotebookPanel').innerText").count("%pip install") == 1
            asked = {
                e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"
            }
        server.shutdown()
    elsewhere = {url for url in asked if not url.startswith((home, "data:", "blob:", "about:", "chrome:"))}
    assert all("cdn.jsdelivr.net/pyodide" in url for url in elsewhere), elsewhere
