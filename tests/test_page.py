"""The web page of a network: one small file, whose figures are Python's, driven in a browser as a reader would."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM, Browser

import svd_numpy as svd
from svd_numpy.exchange.page.data import Weights, sizes_in_order, weights_of
from svd_numpy.exchange.page.html import MOST_BYTES

in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome is installed")


@pytest.fixture(scope="module")
def data() -> svd.Dataset:
    return svd.load("digits")


@pytest.fixture(scope="module")
def model(data: svd.Dataset) -> svd.Sequential:
    """A trained network that still has its noise."""
    layers = svd.VariationalDense(784, 40), svd.ReLU(), svd.VariationalDense(40, 10)
    model = svd.Sequential(*layers, backend="numpy", input_mean=data.x_train.mean(axis=0) / 255)
    config = svd.TrainConfig(epochs=30, batch_size=50, lr=3e-3, kl_schedule=((5, 0), (20, 0.5)))
    svd.fit(model, data, config, progress=False)
    return model


@pytest.fixture(scope="module")
def page(model: svd.Sequential, data: svd.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return svd.export_html(model, tmp_path_factory.mktemp("page") / "digits.html", data.x_test, data.y_test)


@pytest.fixture
def browser(page: Path, tmp_path: Path) -> Iterator[Browser]:
    """The page, open in a browser that shows no motion, its first figures counted."""
    with Browser(tmp_path / "profile", prefers_reduced_motion="reduce") as opened:
        opened.open(page)
        opened.until("document.body.dataset.ready")
        yield opened
        thrown = [event for event in opened.events if event.get("method") == "Runtime.exceptionThrown"]
        assert not thrown
        asked = [e["params"]["request"]["url"] for e in opened.events if e.get("method") == "Network.requestWillBeSent"]
        assert all(url.startswith(("file:", "data:", "about:")) for url in asked), asked


def rounded(model: svd.Sequential, keep: dict[str, np.ndarray], weights: dict[str, Weights]) -> svd.Sequential:
    """The network with the page's rounded weights, and only those to keep."""
    copy = model.copy(dtype="float64")
    for name, w in weights.items():
        shape = copy.parameters[f"{name}.theta"].shape
        copy.parameters[f"{name}.theta"][...] = np.where(keep[name], w.theta * w.scale, 0).reshape(shape)
        if f"{name}.log_sigma2" in copy.parameters:
            copy.parameters[f"{name}.log_sigma2"][...] = -20
    copy.input_mean[...] = np.rint(255 * copy.input_mean) / 255
    copy.threshold = 60
    return copy


def kept_by_size(weights: dict[str, Weights], count: int) -> dict[str, np.ndarray]:
    layer, number = sizes_in_order(weights)
    keep = {name: np.zeros(w.theta.size, bool) for name, w in weights.items()}
    for n, name in enumerate(weights):
        keep[name][number[:count][layer[:count] == n]] = True
    return keep


# ------------------------------------------------------------ the file


def test_it_is_one_small_file_that_loads_nothing(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert len(text.encode()) <= MOST_BYTES
    assert not re.search(r"https?:|src=|@import|url\(|fetch\(|XMLHttpRequest|WebSocket|@[A-Z]+@", text)
    assert "default-src 'none'" in text


def test_a_network_that_does_not_fit_is_refused(model: svd.Sequential, data: svd.Dataset, tmp_path: Path) -> None:
    path, x, y = tmp_path / "page.html", data.x_test, data.y_test

    def small(*layers: svd.Layer, **options: Any) -> svd.Sequential:
        return svd.Sequential(*layers, backend="numpy", **options)

    with pytest.raises(svd.SvdValueError, match="28 x 28"):
        svd.export_html(small(svd.Dense(64, 10)), path, x[:, :64], y)
    for layer, reason in (
        (svd.AvgPool2d(3, padding=1, count_include_pad=False, name="odd"), "'odd' takes means without"),
        (svd.Pad2d(1, name="odd"), "'odd' is a Pad2d"),
    ):
        with pytest.raises((svd.SvdValueError, svd.SvdTypeError), match=reason):
            images = svd.Conv2d(1, 2, 3), layer, svd.Conv2d(2, 1, 3), svd.Flatten()
            svd.export_html(small(*images, input_shape=(1, 28, 28)), path, x, y)
    with pytest.raises(svd.SvdValueError, match="Categorical"):
        svd.export_html(small(svd.Dense(784, 10), likelihood="gaussian"), path, x, y)
    with pytest.raises(svd.SvdValueError, match="uint8"):
        svd.export_html(model, path, x / np.float32(255), y)
    with pytest.raises(svd.SvdValueError, match=r"\.html"):
        svd.export_html(model, tmp_path / "page.txt", x, y)
    with pytest.raises(svd.SvdValueError, match="lower the threshold"):
        svd.export_html(small(svd.VariationalDense(784, 400), svd.ReLU(), svd.Dense(400, 10)), path, x, y)
    with pytest.raises(svd.SvdValueError, match="log_alphas"):
        svd.export_html(model, path, x, y, log_alphas={"dense1": np.zeros((3, 3))})
    assert not path.exists()


# ------------------------------------------------------------ its figures


@in_a_browser
def test_figures_are_those_of_python(browser: Browser, model: svd.Sequential, data: svd.Dataset) -> None:
    weights = weights_of(model, None)
    digits = int(browser.run("state.whole.digits.length"))
    x, y = data.x_test[:digits], data.y_test[:digits]
    for threshold in (model.threshold, 4.5, 1.0, -1.0, -2.5):
        browser.run(f"setThreshold({threshold})")
        shown = browser.run("['weights', 'bytes', 'wrong', 'wrong-size'].map((id) => element(id).textContent)")
        counts = svd.measure_sparsity(model, threshold)
        kept = sum(counts.kept.values())
        assert shown[0] == f"{kept:,}"
        assert shown[1] == f"{2 * (kept + sum(live for live, _ in counts.live.values())):,}"
        by_alpha = {name: w.log_alpha <= 8 * threshold for name, w in weights.items()}
        for keep, wrong in ((by_alpha, shown[2]), (kept_by_size(weights, kept), shown[3])):
            assert (rounded(model, keep, weights).predict(x).argmax(axis=1) != y).sum() == int(wrong)


@in_a_browser
def test_probabilities_and_samples_are_those_of_python(
    browser: Browser, model: svd.Sequential, data: svd.Dataset
) -> None:
    weights = weights_of(model, None)
    keep = {name: w.log_alpha <= 8 * model.threshold for name, w in weights.items()}
    wanted = rounded(model, keep, weights).predict_proba(data.x_test[:50])
    found = browser.run("state.whole.digits.slice(0, 50).map((pixels) => probabilities(state.net, pixels))")
    assert np.allclose(found, wanted, atol=1e-9)
    drawn = browser.run(
        "(() => { const nets = sampled(state.net, 300, 5);"
        "return state.whole.digits.slice(0, 50).map((pixels) => opinion(nets, pixels).mean); })()"
    )
    samples = svd.sample_probabilities(model, data.x_test[:50], 300, survivors_only=True).mean(axis=0)
    assert np.abs(np.array(drawn) - samples).max() < 0.12
    assert np.abs(np.array(drawn) - samples).mean() < 0.01


@in_a_browser
@pytest.mark.parametrize("pool", [svd.MaxPool2d, svd.AvgPool2d])
def test_convolutions_are_those_of_python(pool: Any, data: svd.Dataset, tmp_path: Path) -> None:
    model = svd.Sequential(
        svd.VariationalConv2d(1, 4, (5, 3), padding=(2, 1)), svd.ReLU(), pool(2),
        svd.Conv2d(4, 6, 3, stride=(2, 1), dilation=(1, 2)), pool(3, 2, padding=1), svd.ReLU(), svd.Flatten(),
        svd.VariationalDense(6 * 3 * 5, 12), svd.ReLU(), svd.Dropout(0.3), svd.Dense(12, 10), input_shape=(1, 28, 28),
        backend="numpy",
    )  # fmt: skip
    rng = np.random.default_rng(0)
    for name, array in model.parameters.items():
        if name.endswith("bias"):
            array[...] = rng.normal(0, 0.3, array.shape)
    page = svd.export_html(model, tmp_path / "page.html", data.x_test, data.y_test)
    weights = weights_of(model, None)
    wanted = rounded(model, {name: w.theta != 0 for name, w in weights.items()}, weights)
    with Browser(tmp_path / "profile") as browser:
        browser.open(page)
        browser.until("document.body.dataset.ready")
        found = browser.run(
            "state.whole.digits.slice(0, 20).map((x) => [...activations(cut(state.whole, () => true), x).pop()])"
        )
        browser.run("showDigit(3)")  # draws filters
    assert np.allclose(found, wanted.predict(data.x_test[:20]), rtol=1e-9, atol=1e-12)


@in_a_browser
def test_groups_and_batch_norm_are_those_of_python(data: svd.Dataset, tmp_path: Path) -> None:
    """Also with more groups than filters per group, and with a normalisation first, after Flatten and after rows."""
    model = svd.Sequential(
        svd.BatchNorm(1), svd.VariationalConv2d(1, 6, 5, stride=2), svd.BatchNorm(6), svd.ReLU(),
        svd.Conv2d(6, 9, (3, 2), padding=1, groups=3), svd.ReLU(), svd.VariationalConv2d(9, 18, 3, groups=9),
        svd.BatchNorm(18, affine=False), svd.MaxPool2d(3), svd.Flatten(), svd.BatchNorm(18 * 3 * 3),
        svd.VariationalDense(18 * 3 * 3, 20), svd.BatchNorm(20), svd.ReLU(), svd.Dense(20, 10),
        input_shape=(1, 28, 28), backend="numpy",
    )  # fmt: skip
    rng = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, svd.BatchNorm):
            for array in (layer.running_mean, layer.running_var, *([layer.gamma, layer.beta] if layer.affine else [])):
                array[...] = rng.uniform(0.5, 1.5, array.shape)
    page = svd.export_html(model, tmp_path / "page.html", data.x_test, data.y_test)
    weights = weights_of(model, None)
    wanted = rounded(model, {name: w.theta != 0 for name, w in weights.items()}, weights).predict(data.x_test[:20])
    with Browser(tmp_path / "profile") as browser:
        browser.open(page)
        browser.until("document.body.dataset.ready")
        found = browser.run(
            "state.whole.digits.slice(0, 20).map((x) => [...activations(cut(state.whole, () => true), x).pop()])"
        )
        browser.run("showDigit(3)")
        assert not [event for event in browser.events if event.get("method") == "Runtime.exceptionThrown"]
    assert np.ptp(wanted, axis=0).min() > 0.01  # digits differ
    assert np.abs(np.array(found) - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_a_fine_tuned_network_keeps_the_log_alphas_of_its_training(model: svd.Sequential) -> None:
    before = svd.log_alpha(model)
    tuned = svd.sparsify(model, 1.5)
    for layer in tuned.variational_layers:
        layer.log_sigma2[...] = -20
    weights = weights_of(tuned, before)
    for name, w in weights.items():
        left = w.alive.reshape(before[name].shape)
        assert np.array_equal(left, before[name] <= 1.5)
        assert np.array_equal(w.log_alpha.reshape(before[name].shape) <= 8, before[name] <= 1)
        assert not w.noise


# ------------------------------------------------------------ a digit from strokes

SEVEN = "[[[0.3, 0.2], [0.7, 0.2], [0.45, 0.8]]]"


@in_a_browser
def test_strokes_are_scaled_and_centred_as_in_mnist(browser: Browser) -> None:
    """The larger side spans 20 pixels, the centre of mass lies at (14.5, 14.5), wherever and however large it was."""
    for strokes in (SEVEN, "[[[0.1, 0.1], [0.9, 0.12]]]", "[[[0.5, 0.1], [0.5, 0.9]]]", "[[[0.5, 0.5]]]"):
        pixels = np.array(browser.run(f"[...pixelsOf({strokes})]")).reshape(28, 28)
        rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
        span = max(np.ptp(rows), np.ptp(columns)) + 1
        assert 19 <= span <= 21 or "0.5, 0.5" in strokes
        centre = np.arange(28) + 0.5
        mass = pixels.sum()
        assert abs(pixels.sum(axis=0) @ centre / mass - 14.5) < 0.1
        assert abs(pixels.sum(axis=1) @ centre / mass - 14.5) < 0.1
    seven = np.array(browser.run(f"[...pixelsOf({SEVEN})]"))
    moved = f"{SEVEN}.map((stroke) => stroke.map(([x, y]) => [0.4 * x + 0.5, 0.4 * y + 0.01]))"
    assert np.abs(seven - np.array(browser.run(f"[...pixelsOf({moved})]"))).max() <= 1
    assert not any(browser.run("[...pixelsOf([])]"))


# ------------------------------------------------------------ as a reader uses it


def place(browser: Browser, x: float, y: float) -> tuple[float, float]:
    """Where a point of the pad, in units of its side, lies in the window."""
    left, top, side = browser.run(
        "(({ left, top, width }) => [left, top, width])(element('pad').getBoundingClientRect())"
    )
    return left + x * side, top + y * side


@in_a_browser
def test_drawing_by_mouse_and_clearing(browser: Browser) -> None:
    browser.run("element('clear').click()")
    assert browser.run("element('verdict').textContent") == "Nothing is drawn yet."
    browser.mouse("mousePressed", *place(browser, 0.5, 0.2))
    for step in range(1, 11):
        browser.mouse("mouseMoved", *place(browser, 0.5, 0.2 + 0.06 * step))
    browser.mouse("mouseReleased", *place(browser, 0.5, 0.8))
    assert browser.run("state.strokes.length === 1 && state.strokes[0].length >= 10")
    best = browser.run("largest(probabilities(state.net, pixelsOf(state.strokes)))")
    assert browser.run("element('verdict').textContent").startswith(f"It reads {'an' if best == 8 else 'a'} {best} (")
    browser.run("element('clear').click()")
    assert browser.run("state.strokes.length") == 0


@in_a_browser
def test_drawing_by_finger_does_not_scroll(browser: Browser) -> None:
    browser.resize(390, 700)
    assert browser.run("document.documentElement.scrollWidth") == 390
    browser.send("Emulation.setTouchEmulationEnabled", enabled=True)
    browser.run("element('clear').click()")
    browser.touch("touchStart", place(browser, 0.5, 0.9))
    for step in range(1, 11):
        browser.touch("touchMove", place(browser, 0.5, 0.9 - 0.08 * step))
    browser.touch("touchEnd")
    assert browser.run("state.strokes[0].length") >= 5
    assert browser.run("scrollY") == 0
    assert browser.run("element('verdict').textContent").startswith("It reads a ")


@in_a_browser
def test_drawing_by_keyboard(browser: Browser) -> None:
    browser.run("element('clear').click(), element('pad').focus()")
    browser.key(" ", 32)
    for _ in range(12):
        browser.key("ArrowDown", 40)
    browser.key(" ", 32)
    assert browser.run("state.strokes.length === 1 && state.strokes[0].length === 13")
    assert browser.run("scrollY") == 0
    assert browser.run("element('verdict').textContent").startswith("It reads a ")
    browser.key("Delete", 46)
    assert browser.run("state.strokes.length") == 0


@in_a_browser
def test_the_slider_and_the_doubtful_digits(browser: Browser) -> None:
    before = browser.run("element('weights').textContent")
    browser.run("element('threshold').value = state.low, element('threshold').dispatchEvent(new Event('input'))")
    browser.until("Number(document.body.dataset.ready) === state.low")
    assert browser.run("element('weights').textContent") != before
    browser.until("element('doubts').children.length === 6")
    browser.run("element('doubts').children[2].click()")
    assert browser.run("state.shown >= 0 && /It is an? \\d/.test(element('verdict').textContent)")
    assert re.match(
        r"Of 20 networks drawn from the posterior, \d+ say \d", browser.run("element('opinion').textContent")
    )


@in_a_browser
def test_everything_has_a_name_for_a_screen_reader(browser: Browser) -> None:
    nameless = browser.run(
        "[...document.querySelectorAll('canvas, button, input')].filter((one) => !(one.getAttribute('aria-label') || "
        "one.textContent.trim() || document.querySelector(`label[for=\"${one.id}\"]`) || one.closest('button')))"
        ".map((one) => one.outerHTML)"
    )
    assert nameless == []
    assert browser.run("document.querySelectorAll('[aria-live]').length") >= 1
