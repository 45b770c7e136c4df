"""docs/play.html: in step with its sources, its runs those of `micro`, its JavaScript the sums of NumPy."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from play_tools import OPTIONS, PAGE, error_of, golden, make_play, network_at, page_data

from svd_numpy import micro

ROOT = Path(__file__).resolve().parents[1]
NODE = shutil.which("node")
in_node = pytest.mark.skipif(NODE is None, reason="Node.js is not installed: its `node` runs the page's scripts")


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    return page_data()[0]


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return page_data()[1]


def node(script: str, *sources: str) -> Any:
    """What a script returns after these sources, by way of JSON."""
    assert NODE is not None
    text = '"use strict";\n' + "\n".join(make_play.source(name) for name in sources)
    done = subprocess.run(
        [NODE, "-"], input=f"{text}\nconsole.log(JSON.stringify({script}))", capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# ------------------------------------------------------------ the file


def test_the_page_is_what_its_sources_make_of_its_data(page: str) -> None:
    assert make_play.fill(make_play.data_of(page)) == page, "docs/play.html has fallen behind: python docs/make_play.py"


def test_a_change_of_any_source_is_noticed(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read, data = make_play.source, make_play.data_of(page)
    names = sorted(path.name for path in make_play.SOURCES.iterdir())
    assert len(names) == len(make_play.SCRIPTS) + 2
    for changed in names:
        monkeypatch.setattr(make_play, "source", lambda name, changed=changed: read(name) + " " * (name == changed))
        assert make_play.fill(data) != page, changed


def test_it_is_one_file_that_loads_nothing(page: str) -> None:
    assert len(page.encode()) <= 1_200_000
    shown = re.search(r"docs/play\.html\).*? (\d+) kB", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert shown is not None and int(shown[1]) == round(len(page.encode()) / 1000, -1)
    assert "default-src 'none'" in page
    assert not re.search(r"https?:|src=|@import|url\(|fetch\(|XMLHttpRequest|WebSocket|@[A-Z]+@", page)


# ------------------------------------------------------------ its data


def test_digits_are_those_of_scikit_learn(arrays: dict[str, np.ndarray]) -> None:
    for mine, theirs in zip(("x", "labels", "xTest", "testLabels"), make_play.digits(), strict=True):
        np.testing.assert_array_equal(arrays[mine], theirs)


def test_the_recorded_run_is_that_of_micro(arrays: dict[str, np.ndarray], described: dict[str, Any]) -> None:
    """The first epoch, trained here; later ones drift with the last bits of the machine that recorded them."""
    net = next(make_play.train(arrays["x"] / 16, arrays["labels"], make_play.warm_up))
    eighths = np.clip(np.ceil(8 * make_play.flat(net, "log_alpha")), -128, 127)
    assert np.mean(eighths != arrays["logAlpha"][0]) < 0.001
    assert described["course"]["kept"][0] == sum(micro.kept(layer).sum() for layer in net)


def test_rounding_keeps_every_mask_and_nearly_every_answer(
    arrays: dict[str, np.ndarray], described: dict[str, Any]
) -> None:
    course = described["course"]
    np.testing.assert_array_equal((arrays["logAlpha"] <= 24).sum(axis=1), course["kept"])
    for epoch, error in enumerate(course["error"]):
        layers = network_at(arrays, described, epoch)
        rounded = error_of(layers, [layer["logAlpha"] <= 24 for layer in layers], arrays)
        assert abs(rounded - error) <= 4 / 360 + 1e-4, epoch


def test_the_clinic_shows_what_it_says(described: dict[str, Any]) -> None:
    """The claims of clinic.js about each histogram."""
    edges = np.array(described["edges"])
    cases = {case["name"]: case for case in described["clinic"]}
    assert set(cases) == set(re.findall(r"^  (\w+): \{$", make_play.source("clinic.js"), re.MULTILINE))
    left = {name: np.array(case["counts"])[edges[:-1] < 3].sum() for name, case in cases.items()}
    for name, case in cases.items():
        assert sum(case["counts"]) == 7400 and left[name] == case["kept"]
    healthy, light, dead = (np.array(cases[name]["counts"]) for name in ("healthy", "light", "dead"))
    assert left["heavy"] == 0 and edges[np.flatnonzero(cases["heavy"]["counts"])[0]] > 10
    assert left["over"] < left["healthy"] / 3 and cases["over"]["error"] > 2 * cases["healthy"]["error"]
    assert left["light"] > 7400 / 2 and light.argmax() == 0
    far = edges[:-1] >= 60
    assert dead[far].sum() >= 3200 and 300 <= healthy[far].sum() < 400 and healthy[(edges[:-1] > 45) & ~far].sum() < 100
    living = edges[:-1] < 0  # the heap left of the valley
    unfinished = np.array(cases["unfinished"]["counts"])
    assert (
        edges[:-1][~living][unfinished[~living].argmax()] < edges[:-1][~living & ~far][healthy[~living & ~far].argmax()]
    )


def test_local_reparametrisation_is_quieter(described: dict[str, Any]) -> None:
    shared, local = (np.array(described["variance"][name]) for name in ("shared", "local"))
    assert np.all(shared > local) and 10 < 10 ** (shared - local)[12] < 50


# ------------------------------------------------------------ its JavaScript, in Node


@in_node
def test_losses_of_the_first_steps_are_those_of_micro() -> None:
    """The same noise, losses, gradients and steps of Adam: 20 losses, and the weights after them."""
    x, labels, _, _ = make_play.digits()
    losses, net = golden(x / 16, labels, 20)
    found = node(
        f"""(() => {{
          const x = Float64Array.from({x.ravel().tolist()}, (value) => value / 16);
          const run = makeTrainer(x, {labels.tolist()}, [64, 100, 10], {json.dumps(OPTIONS)});
          const losses = Array.from({{ length: 20 }}, () => trainStep(run));
          const [first, last] = run.net;
          return {{ losses, theta: [...first.theta], logSigma2: [...last.logSigma2], bias: [...last.bias] }};
        }})()""",
        "micro.js",
    )
    np.testing.assert_allclose(found["losses"], losses, rtol=1e-6)
    np.testing.assert_allclose(found["theta"], net[0]["theta"].ravel(), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found["logSigma2"], net[1]["log_sigma2"].ravel(), rtol=1e-6)
    np.testing.assert_allclose(found["bias"], net[1]["bias"], rtol=1e-6, atol=1e-9)


@pytest.mark.slow
@in_node
def test_random_labels_are_learned_by_heart_only_without_a_price() -> None:
    """What the page says of its switch: over half of them with beta 0; with beta 1 the network empties."""
    x, labels, _, _ = make_play.digits()
    script = f"""[0, 1].map((beta) => {{
      const x = Float64Array.from({x.ravel().tolist()}, (value) => value / 16);
      const dealt = shuffled(x.length / 64, 0, -1 >>> 0).map((from) => {labels.tolist()}[from]);
      const options = {{ beta, warmUp: 20, lr: 10 ** -2.3, epochs: 60, batch: 50, seed: 0 }};
      const run = makeTrainer(x, dealt, [64, 100, 10], options);
      while (run.epoch < 60) trainStep(run);
      const masks = run.net.map(kept);
      const left = masks.reduce((sum, mask) => sum + mask.reduce((a, b) => a + b, 0), 0);
      return [left, 1 - errorOf(predict(run.net, masks, x, dealt.length), dealt)];
    }})"""
    (_, by_heart), (left, right) = node(script, "micro.js")
    assert by_heart > 0.5 and right < 0.25 and left < 74


@in_node
def test_noise_is_that_of_micro_where_units_do_not_fill_a_group() -> None:
    for seed, layer, step, rows, units in ((0, 0, 0, 3, 70), (2**32 - 1, 2, 10**6, 2, 10)):
        found = node(f"[...normals({seed}, {layer}, {step}, {rows}, {units})]", "micro.js")
        np.testing.assert_allclose(found, micro.normals(seed, layer, step, rows, units).ravel(), rtol=1e-12, atol=1e-14)


@in_node
@pytest.mark.parametrize("beta", [0.3, 1.0, 4.0])
def test_a_weight_dies_below_1_06_roots_of_beta(beta: float) -> None:
    """A search over a grid of log alpha is the oracle; it knows neither the derivative nor the rule."""
    log_alpha = np.linspace(-6, 12, 40_001)
    s = np.exp(-log_alpha)
    kl = 0.5 * np.log1p(s) + micro.K1 * (t := np.exp(-micro.K2) * s**micro.K3) / (1 + t)

    def optimum(z: float) -> float:
        return float(log_alpha[np.argmin(beta * kl - z**2 / 2 * s / (1 + s))])

    root = np.sqrt(beta)
    script = f"[neededZ(AT_THRESHOLD, {beta}), bestS({1.2 * root}, {beta}), bestS({0.99 * root}, {beta})]"
    bar, above, below = node(script, "micro.js", "weight.js")
    assert round(bar / root, 2) == 1.06
    assert optimum(0.99 * bar) > 3 > optimum(1.01 * bar)
    assert below == 0 and -np.log(above) == pytest.approx(optimum(1.2 * root), abs=1e-3)


@in_node
def test_pulls_are_slopes_of_the_cost_and_the_ball_comes_to_rest() -> None:
    found = node(
        """(() => {
          const [ball, z, beta, h] = [{ theta: 0.7, logSigma2: -0.4 }, 1.9, 0.8, 1e-5];
          const cost = (a, b) => costOf({ theta: ball.theta + a, logSigma2: ball.logSigma2 + b }, z, beta);
          const slopes = [(cost(-h, 0) - cost(h, 0)) / 2 / h, (cost(0, -h) - cost(0, h)) / 2 / h];
          const both = ({ data, price }) => [data[0] + price[0], data[1] + price[1]];
          let at = { theta: -3, logSigma2: 3 };
          for (let n = 0; n < 5000; n++) at = rolled(at, z, beta, 0.04);
          const s = bestS(z, beta);
          const pulls = both(pullsOn(ball, z, beta));
          return { slopes, pulls, rest: both(pullsOn(at, z, beta)), theta: at.theta, best: (z * s) / (1 + s) };
        })()""",
        "micro.js", "weight.js",
    )  # fmt: skip
    np.testing.assert_allclose(found["pulls"], found["slopes"], rtol=1e-6)
    np.testing.assert_allclose(found["rest"], 0, atol=1e-9)
    assert found["theta"] == pytest.approx(found["best"], abs=1e-9)
