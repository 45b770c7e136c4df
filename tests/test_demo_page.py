"""docs/demo.html, the committed page: in step with its sources, whole, and with the figures that README gives."""

from __future__ import annotations

import base64
import json
import os
import re
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM, Browser

import svd_numpy as svd
from svd_numpy.experiments.architectures import build
from svd_numpy.experiments.recipes import get_recipe

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))

import make_demo  # noqa: E402

PAGE = ROOT / "docs" / "demo.html"
REAL_DATA = os.environ.get("SVD_NUMPY_DATA", "")


def opened(page: str) -> tuple[dict[str, Any], bytes]:
    """Read description and numbers of a page."""
    data = make_demo.data_of(page)
    return json.loads(data["DESCRIPTION"]), zlib.decompress(base64.b64decode(data["NUMBERS"]))


def read_weights(described: dict[str, Any], numbers: bytes) -> tuple[list[dict[str, Any]], int]:
    """Read each layer's places, theta and eighths of log alpha, and how many bytes they and the biases take."""
    at, found = 0, []
    for layer in described["layers"]:
        if "count" not in layer:
            continue
        place, places = -1, []
        for _ in range(layer["count"]):
            step = shift = 0
            while numbers[at] & 128:
                step, shift, at = step | (numbers[at] & 127) << shift, shift + 7, at + 1
            place, at = place + (step | numbers[at] << shift), at + 1
            places.append(place)
        both = np.frombuffer(numbers, np.int8, 2 * layer["count"], at).reshape(2, -1)
        at += both.size + 4 * layer["outputs"]
        found.append({**layer, "places": np.array(places), "theta": both[0], "eighths": both[1]})
    return found, at + 784 * described["has_mean"]


def test_the_page_is_what_its_sources_make_of_its_data() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert make_demo.renewed(page) == page, "docs/demo.html has fallen behind: python docs/make_demo.py brings it up"


def test_a_change_of_any_source_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from svd_numpy.exchange.page import html

    page, read = PAGE.read_text(encoding="utf-8"), html._read
    for changed in ("page.html", "page.css", "helpers.js", "bytes.js", "network.js", "pictures.js", "demo.js"):
        monkeypatch.setattr(html, "_read", lambda name, changed=changed: read(name) + " " * (name == changed))
        assert make_demo.renewed(page) != page


def test_its_data_have_the_form_that_export_html_writes_today(tmp_path: Path) -> None:
    """The same keys in the same order, the same kinds of layers, and all bytes accounted for."""
    described, numbers = opened(PAGE.read_text(encoding="utf-8"))
    data = svd.load("digits")
    model = build(data, get_recipe("lenet-300-100", "default"), seed=0, backend="numpy")
    for layer in model.variational_layers:
        layer.theta[np.arange(layer.theta.size).reshape(layer.theta.shape) % 50 > 0] = 0
    model.input_mean[...] = 0.5 * described["has_mean"]
    fresh, _ = opened(svd.export_html(model, tmp_path / "page.html", data.x_test, data.y_test).read_text("utf-8"))
    assert list(described) == list(fresh)
    assert [list(layer) for layer in described["layers"]] == [list(layer) for layer in fresh["layers"]]
    for key in ("kind", "name", "in_shape", "out_shape"):
        assert [layer[key] for layer in described["layers"]] == [layer[key] for layer in fresh["layers"]]
    layers, at = read_weights(described, numbers)
    assert all(layer["places"][-1] < layer["size"] and layer["eighths"].max() <= described["most"] for layer in layers)
    assert len(numbers) == at + described["digits"] * 785


def test_its_network_and_digits_are_those_that_readme_and_the_figures_speak_of() -> None:
    described, numbers = opened(PAGE.read_text(encoding="utf-8"))
    layers, at = read_weights(described, numbers)
    kept = sum(int((layer["eighths"] <= described["start"]).sum()) for layer in layers)
    runs = json.loads((ROOT / "benchmarks/results/c_export.json").read_text(encoding="utf-8"))["runs"]
    ours = next(run["weights"] for run in runs if run["arch"] == "lenet-300-100")
    assert ours <= kept < 1.01 * ours  # as C, it is also without the few weights that lead nowhere
    shown = re.search(r"docs/demo\.html\): one page of (\d+) kB", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert shown is not None and int(shown[1]) == round(PAGE.stat().st_size / 1000)
    if not REAL_DATA:
        pytest.skip("SVD_NUMPY_DATA is not set, so the page's digits cannot be compared with those of MNIST")
    data, count = svd.load("mnist", REAL_DATA), described["digits"]
    assert numbers[at:] == data.x_test[:count].tobytes() + data.y_test[:count].astype(np.uint8).tobytes()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome is installed")
def test_it_opens_and_reads_a_digit(tmp_path: Path) -> None:
    with Browser(tmp_path / "profile", prefers_reduced_motion="reduce") as browser:
        browser.open(PAGE)
        browser.until("document.body.dataset.ready")
        shares = browser.run(
            "state.whole.digits.map((x, n) => largest(probabilities(state.net, x)) === state.whole.labels[n])"
        )
        assert np.mean(shares) > 0.95
        assert not [event for event in browser.events if event.get("method") == "Runtime.exceptionThrown"]
