"""The web page on which a recurrent network writes: its figures are Python's, and it is driven as a reader would."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM, Browser
from test_text import TEXT, pruned_net

import svd_numpy as svd
from svd_numpy.cli import main as cli
from svd_numpy.exchange.page.writer import rounded, writer_bytes

in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome is installed")
READ = [1, 3, 0, 6, 2, 1, 1, 0, 5, 4] * 3  # 0 is padding


def on_the_page(small: svd.RecurrentModel) -> svd.RecurrentModel:
    """The network with the weights that the page has."""

    def grid(rows: Any) -> Any:
        scale, values = rounded(rows.values)
        return replace(rows, values=(values * scale).astype(np.float32))

    ops = [replace(op, inputs=grid(op.inputs), recurrent=grid(op.recurrent)) for op in small.ops]
    return svd.RecurrentModel(ops, small.vocabulary, small.padding, "numpy")


@pytest.fixture(scope="module")
def writer() -> svd.RecurrentModel:
    """A network that has learned to multiply, more or less."""
    data = svd.text_dataset(TEXT, 8, 20)
    layers = svd.LSTM(data.vocabulary, 24, tokens=True), svd.Dense(24, data.n_classes)
    model = svd.Sequential(*layers, input_shape=(20,), backend="numpy")
    svd.fit(model, data, svd.TrainConfig(8, 8, 1e-2, clip_norm=1.0), progress=False)
    small = svd.compress(model, backend="numpy")
    assert isinstance(small, svd.RecurrentModel)
    return small


@pytest.fixture
def browser(writer: svd.RecurrentModel, tmp_path: Path) -> Iterator[Browser]:
    page = svd.export_writer(writer, tmp_path / "writer.html", prompt="7 times ")
    with Browser(tmp_path / "profile") as opened:
        opened.open(page)
        opened.until("document.body.dataset.ready")
        yield opened
        assert not [event for event in opened.events if event.get("method") == "Runtime.exceptionThrown"]
        asked = [e["params"]["request"]["url"] for e in opened.events if e.get("method") == "Network.requestWillBeSent"]
        assert all(url.startswith(("file:", "data:", "about:")) for url in asked), asked


def test_the_bytes_hold_every_weight() -> None:
    """Read back by the rule in words, in Python."""
    small = svd.compress(pruned_net(svd.VariationalGRU, "numpy"), backend="numpy")
    described, content = writer_bytes(small)
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte, at = content[at], at + 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    for op, layer in zip(small.ops, described["layers"], strict=True):
        width = len(op.bias) * 3 // 4 if op.kind == "gru" else len(op.bias)
        for rows, own in ((op.inputs, layer["inputs"]), (op.recurrent, layer["recurrent"])):
            counts = [number() for _ in range(own["rows"])]
            places = [(row, number()) for row, count in enumerate(counts) for _ in range(count)]
            values = np.frombuffer(content, "<i2", len(places), at) * own["scale"]
            at += 2 * len(places)
            found, last, before = np.zeros((own["rows"], width)), -1, -1
            for (row, step), value in zip(places, values, strict=True):
                last = (last if row == before else -1) + step
                found[row, last], before = value, row
            np.testing.assert_allclose(found, rows.matrix(width), atol=own["scale"] / 2 * 1.01)
        np.testing.assert_array_equal(np.frombuffer(content, "<f4", len(op.bias), at), op.bias)
        at += 4 * len(op.bias)
    assert at == len(content)


def test_the_page_is_small_and_says_what_it_holds(tmp_path: Path) -> None:
    layers = svd.VariationalLSTM("<>&ab", 8, tokens=True), svd.VariationalDense(8, 5)
    model = svd.Sequential(*layers, backend="numpy", input_shape=(4,))
    page = svd.export_writer(model, tmp_path / "a.html", prompt="ab</script>", title="<b>").read_text("utf-8")
    described = json.loads(re.search(r'application/json">(.*?)</script>', page)[1])  # type: ignore[index]
    assert described["total"] == 13 * 32 + 40 and described["prompt"] == "ab</script>"
    assert "<title>&lt;b&gt;</title>" in page and not re.search(r"@[A-Z]+@", page)


def test_networks_that_do_not_write_are_refused(tmp_path: Path) -> None:
    judge = svd.Embedding("_ab", 4, padding=0), svd.LSTM(4, 5, every_step=False), svd.Dense(5, 2)
    large = svd.LSTM("abc", 250, tokens=True), svd.Dense(250, 3)
    path = tmp_path / "a.html"
    for model, message in (
        (svd.Sequential(*judge, backend="numpy", input_shape=(4,)), "got one with 2 outputs"),
        (svd.Sequential(*large, backend="numpy", input_shape=(4,)), "expected at most 200,000"),
        (svd.Sequential(svd.VariationalDense(4, 2), backend="numpy"), "expected a recurrent network"),
        ("net", "model: got str"),
    ):
        with pytest.raises((svd.SvdValueError, svd.SvdTypeError), match=message):
            svd.export_writer(model, path)
    assert not path.exists()


@in_a_browser
def test_its_steps_are_those_of_python(tmp_path: Path) -> None:
    for number, cell in enumerate((svd.VariationalLSTM, svd.VariationalGRU)):
        small = svd.compress(pruned_net(cell, "numpy"), backend="numpy")
        same = on_the_page(small)
        wanted = np.array([same.step(token) for token in READ])
        with Browser(tmp_path / f"profile{number}") as opened:
            opened.open(svd.export_writer(small, tmp_path / f"{number}.html"))
            opened.until("document.body.dataset.ready")
            found = opened.run(f"reset(state.net), {READ}.map((token) => [...step(state.net, token)])")
        assert np.ptp(wanted, axis=0).max() > 0.1  # outputs change
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@in_a_browser
def test_a_reader_lets_it_write(browser: Browser, writer: svd.RecurrentModel, tmp_path: Path) -> None:
    browser.run("element('temperature').value = 0, element('temperature').dispatchEvent(new Event('input'))")
    browser.run("element('write').click()")
    browser.until("state.text.length >= 40")
    browser.run("element('write').click()")
    written = browser.run("element('text').textContent")
    assert written == svd.generate(on_the_page(writer), "7 times ", len(written) - 8, temperature=0)
    assert browser.run("element('write').textContent") == "Write"
    count = browser.run("state.text.length")
    browser.run("new Promise((go) => setTimeout(go, 200))")
    assert browser.run("state.text.length") == count
    drawn = "[...element('units').getContext('2d').getImageData(0, 0, 300, 200).data].some((byte) => byte)"
    assert browser.run(drawn) and "24 units" in browser.run("element('units').getAttribute('aria-label')")
    assert browser.run("document.querySelector('#bars .bar').lastElementChild.textContent") == "100 %"
    browser.run("element('prompt').value = '3ü times', element('restart').click()")
    assert browser.run("element('text').textContent") == "3 times"
    assert browser.run("element('unknown').textContent") == "It does not know “ü”: left out."
    browser.resize(390, 700)
    assert browser.run("document.documentElement.scrollWidth") == 390
    nameless = (
        "[...document.querySelectorAll('canvas, button, input, textarea')].filter((one) => !(one.textContent.trim() ||"
    )
    named = "one.getAttribute('aria-label') || document.querySelector(`label[for=\"${one.id}\"]`))).length"
    assert browser.run(f"{nameless} {named}") == 0


def test_demo_writes_this_page_for_a_run_on_text(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    options: dict[str, Any] = {"dataset": "reviews-text", "units": 6, "lanes": 32, "epochs": 1, "backend": "numpy"}
    svd.train_text(**options, run_dir=folder, progress=False)
    assert cli.main(["demo", str(folder)]) == 0
    assert 'id="temperature"' in (folder / "demo.html").read_text("utf-8")
