"""docs/play.html in a browser, played as a reader would; what it says is compared with NumPy."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM, Browser
from play_tools import PAGE, error_of, golden, network_at, page_data

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome is installed")


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    return page_data()[0]


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return page_data()[1]


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """The page, open, without motion; at the end nothing was thrown, printed or asked for."""
    with Browser(tmp_path / "profile", prefers_reduced_motion="reduce") as opened:
        opened.send("Log.enable")
        opened.open(PAGE)
        opened.until("document.body.dataset.ready")
        yield opened
        events = {event.get("method") for event in opened.events}
        assert not events & {"Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"}
        asked = [e["params"]["request"]["url"] for e in opened.events if e.get("method") == "Network.requestWillBeSent"]
        assert all(url.startswith(("file:", "data:", "about:")) for url in asked), asked


def place_of(browser: Browser, name: str, across: float, down: float) -> tuple[float, float]:
    """Bring an element into view; the place at these shares of its width and height."""
    browser.run(f"element('{name}').scrollIntoView({{ block: 'center' }})")
    box = json.loads(browser.run(f"JSON.stringify(element('{name}').getBoundingClientRect())"))
    return box["x"] + across * box["width"], box["y"] + down * box["height"]


def drag(browser: Browser, name: str, *shares: tuple[float, float]) -> None:
    """Press at the first place, move through the others, release."""
    places = [place_of(browser, name, *share) for share in shares]
    browser.mouse("mousePressed", *places[0])
    for place in places[1:]:
        browser.mouse("mouseMoved", *place)
    browser.mouse("mouseReleased", *places[-1])
    settle(browser)


def settle(browser: Browser) -> None:
    """Let the page draw what has changed."""
    browser.run("new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go)))")


def slide(browser: Browser, name: str, value: float) -> None:
    """Set a slider as a reader would."""
    browser.run(f"element('{name}').value = {value}; element('{name}').dispatchEvent(new Event('input'))")
    settle(browser)


def says(browser: Browser, name: str) -> str:
    """Text of an element."""
    return str(browser.run(f"element('{name}').textContent"))


def test_a_ball_that_is_dragged_rolls_back_and_the_rule_lights_up(browser: Browser) -> None:
    drag(browser, "plane", (0.6, 0.5), (0.9, 0.2))
    ball = browser.run("play.weight.ball")
    rest = browser.run("(() => { const s = bestS(2, 1); return [2 * s / (1 + s), -Math.log(s)]; })()")
    assert ball["theta"] == pytest.approx(rest[0], abs=1e-3)
    assert browser.run("element('rule').className") == "rule" and "it lives" in says(browser, "rule")
    slide(browser, "z", 1.0)
    assert browser.run("element('rule').className") == "rule lit" and "1.06 √β" in says(browser, "rule")
    assert browser.run("Math.abs(play.weight.ball.theta)") < 0.1
    slide(browser, "alpha", 2.0)
    assert browser.run("play.weight.ball.logSigma2 - 2 * Math.log(play.weight.ball.theta)") == pytest.approx(2)
    browser.run("element('plane').focus()")
    before = browser.run("play.weight.ball.theta")
    browser.key("ArrowRight", 39)
    settle(browser)
    assert browser.run("play.weight.ball.theta") == pytest.approx(before + 0.1)


def test_epoch_and_threshold_give_the_errors_of_numpy(
    browser: Browser, arrays: dict[str, np.ndarray], described: dict[str, Any]
) -> None:
    drag(browser, "heap", (0.5, 0.5), (0.3, 0.5))
    assert browser.run("Number(element('threshold').value)") < 3
    for epoch, threshold in ((60, 3.0), (12, -2.5), (30, 0.125)):
        slide(browser, "epoch", epoch)
        slide(browser, "threshold", threshold)
        layers = network_at(arrays, described, epoch - 1)
        keep = [layer["logAlpha"] <= 8 * threshold for layer in layers]
        count = sum(int(mask.sum()) for mask in keep)
        assert says(browser, "weights") == says(browser, "weights-size") == f"{count:,}"
        units = sum(int(mask.any(axis=0).sum()) for mask in keep)
        assert says(browser, "bytes") == f"{2 * count + 2 * units:,}"
        sizes = np.concatenate([np.abs(layer["theta"]).ravel() for layer in layers])
        largest = np.zeros(sizes.size, bool)
        largest[np.argsort(-sizes, kind="stable")[:count]] = True
        by_size = [largest[:6400].reshape(64, 100), largest[6400:].reshape(100, 10)]
        whole = [np.ones_like(mask) for mask in keep]
        for name, masks in (("error", keep), ("error-size", by_size), ("error-all", whole)):
            assert says(browser, name) == f"{100 * error_of(layers, masks, arrays):.1f} %", (epoch, name)


def test_a_digit_is_drawn_and_read(browser: Browser, arrays: dict[str, np.ndarray], described: dict[str, Any]) -> None:
    """A 1 by the mouse, a few strokes by keys, and a test digit judged as NumPy judges it."""
    drag(browser, "digit", (0.5, 0.15), (0.5, 0.4), (0.5, 0.6), (0.5, 0.85))
    pixels = np.array(browser.run("[...play.pad.state.pixels]")).reshape(8, 8)
    assert pixels[:, 3:5].min() >= 6 and pixels[:, [0, 1, 2, 5, 6, 7]].max() == 0
    assert "Nothing" not in says(browser, "opinion")
    browser.run("element('clear').click(); element('digit').focus()")
    assert says(browser, "opinion") == "Nothing is drawn yet."
    for key, code in ((" ", 32), *[("ArrowDown", 40)] * 6, ("ArrowRight", 39), (" ", 32)):
        browser.key(key, code)
    assert browser.run("play.pad.state.strokes[0].length") == 8 and browser.run("play.pad.state.pixels.some((p) => p)")
    browser.run("play.pad.state.shown = 40; play.pad.next()")
    layers, x = network_at(arrays, described, 59), arrays["xTest"][41] / 16
    for number, layer in enumerate(layers):
        x = (np.maximum(x, 0) if number else x) @ (layer["theta"] * (layer["logAlpha"] <= 24)) + layer["bias"]
    shares = np.exp(x - x.max()) / np.exp(x - x.max()).sum()
    np.testing.assert_allclose(browser.run("play.pad.state.series[0].shares"), shares, rtol=1e-6, atol=1e-12)
    assert sum(browser.run("play.pad.state.series[2].shares")) == pytest.approx(1)


def test_training_in_the_page_gives_golden_losses(browser: Browser, arrays: dict[str, np.ndarray]) -> None:
    slide(browser, "train-warm", 0)
    slide(browser, "train-rate", -2.0)
    losses, _ = golden(arrays["x"] / 16, arrays["labels"], 8, lr=1e-2, seed=0)
    found = browser.run("play.train.begin(); Array.from({ length: 8 }, () => play.train.step())")
    browser.run("play.train.show()")
    np.testing.assert_allclose(found, losses, rtol=1e-6)
    browser.run("element('train-again').click(); element('train-random').click(); element('train-go').click()")
    browser.until("play.train.state.run && play.train.state.run.step >= 3")
    browser.run("element('train-go').click()")
    step = browser.run("play.train.state.run.step")
    settle(browser)
    assert browser.run("play.train.state.run.step") == step and says(browser, "train-go") == "Go on"
    same = browser.run("play.train.state.labels.filter((label, n) => label === play.data.labels[n]).length")
    assert 0.05 < same / len(arrays["labels"]) < 0.15
    assert browser.run("play.train.state.labels.slice().sort().join() === [...play.data.labels].sort().join()")


def test_the_clinic_answers_and_counts(browser: Browser, described: dict[str, Any]) -> None:
    browser.run("element('say-over').click()")
    assert (
        says(browser, "clinic-words").startswith("Right: Over-pruned")
        and says(browser, "clinic-score") == "1 of 1 right"
    )
    browser.run("element('clinic-next').click(); element('say-healthy').click()")
    assert says(browser, "clinic-words").startswith("No. The answer: KL divided by N twice")
    assert f"{described['clinic'][1]['kept']:,} of 7,400" in says(browser, "clinic-words")
    assert says(browser, "clinic-score") == "1 of 2 right"


def test_a_curve_is_drawn_and_scored(browser: Browser) -> None:
    assert browser.run("element('truth').disabled")
    drag(browser, "guess", (0.1, 0.2), (0.5, 0.6), (0.95, 0.85))
    browser.run("element('truth').click()")
    settle(browser)
    assert 50 < int(re.search(r"Score (\d+) of 100", says(browser, "answer"))[1]) < 100  # type: ignore[index]
    browser.run("element('guess-again').click()")
    truth = "play.predictions.questions[0].truth"
    browser.run(f"for (let n = 0; n < 33; n++) play.predictions.put(n, heightAt({truth}, n / 2 - 8))")
    settle(browser)
    browser.run("element('truth').click()")
    settle(browser)
    assert says(browser, "answer").startswith("Score 100 of 100")
    browser.run("element('guess-next').click()")
    settle(browser)
    browser.run("element('guess').focus()")
    for key, code in (("ArrowUp", 38), ("ArrowRight", 39), ("ArrowUp", 38), ("Enter", 13)):
        browser.key(key, code)
    settle(browser)
    assert "times smaller" in says(browser, "answer")


def test_it_fits_a_telephone_and_follows_a_finger(browser: Browser) -> None:
    browser.resize(390)
    settle(browser)
    assert browser.run("document.documentElement.scrollWidth") <= 390
    across, down = place_of(browser, "heap", 0.6, 0.5)
    browser.touch("touchStart", (across, down))
    browser.touch("touchMove", (across - 60, down))
    browser.touch("touchEnd")
    settle(browser)
    assert browser.run("Number(element('threshold').value)") != 3
