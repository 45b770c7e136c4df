"""Write docs/play.html, a page that teaches Sparse VD by play: the sources in docs/play/ around recorded runs.

    python docs/make_play.py             today's style and scripts around the data that the page already holds
    python docs/make_play.py --train     train the small runs anew (half a minute), and write the page from them

The runs are those of `svd_numpy.micro`: plain NumPy on scikit-learn's 8x8 digits.
"""

from __future__ import annotations

import base64
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from svd_numpy import micro
from svd_numpy.exchange.page import html as page_html
from svd_numpy.files.atomic import write_atomic

HERE = Path(__file__).parent
PAGE, SOURCES = HERE / "play.html", HERE / "play"
SHARED = ("page.css", "helpers.js")  # from svd_numpy/exchange/page/, so that both pages look alike
SCRIPTS = ("micro", "pictures", "weight", "empties", "pad", "train", "clinic", "predictions", "begin")
DATA = ("DESCRIPTION", "NUMBERS")
SIZES, EPOCHS, BATCH, LR, N_TEST = (64, 100, 10), 60, 50, 5e-3, 360
STEPS = 8  # of log_alpha and log_sigma2 in the page, per unit
SIGMA_SHIFT = 5  # log_sigma2 lies between -20 and 10: this much up, it fits a byte in eighths
EDGES = np.arange(-8, 73)  # of the clinic's histograms; the outermost bars hold everything beyond
BLANK = slice(32, 64)  # inputs of the case "dead inputs" that are 0 in every image: the lower half
UNFINISHED = 14  # epochs after which that case stops
LOG_ALPHAS, DRAWS = np.arange(-8, 9), 200  # where, and from how many draws, the variance of gradients is measured

Array = np.ndarray[Any, Any]


# ------------------------------------------------------------ runs


def digits() -> tuple[Array, Array, Array, Array]:
    """Training and test images (uint8, 0 to 16) and labels, split as in `micro`."""
    name, x, labels = micro.load_problem()
    if name != "8x8 digits":
        raise SystemExit("scikit-learn is needed: pip install scikit-learn")
    pixels, order = np.rint(16 * x).astype(np.uint8), np.random.default_rng(0).permutation(len(x))
    train, test = order[N_TEST:], order[:N_TEST]
    return pixels[train], labels[train].astype(np.uint8), pixels[test], labels[test].astype(np.uint8)


def train(x: Array, labels: Array, kl_weight: Callable[[int], float], epochs: int = EPOCHS) -> Iterator[micro.Net]:
    """Train as `micro.main` does, and yield the network after each epoch."""
    net, step = micro.make_net(*SIZES), 0
    moments = micro.zeros_like(net), micro.zeros_like(net)
    for epoch in range(epochs):
        rate = LR * min(1.0, 3 * (1 - epoch / EPOCHS))
        order = np.random.default_rng([0, epoch]).permutation(len(x))
        for rows in np.split(order, range(BATCH, len(order), BATCH)):
            _, gradients = micro.loss_and_gradients(net, x[rows], labels[rows], len(x), kl_weight(epoch), 0, step)
            micro.adam_step(net, gradients, moments, rate, step)
            step += 1
        yield net


def warm_up(epoch: int) -> float:
    """KL weight of `micro.main`: to 1 over the first third."""
    return min(1.0, 3 * epoch / EPOCHS)


def trained(x: Array, labels: Array, kl_weight: Callable[[int], float], epochs: int = EPOCHS) -> micro.Net:
    """Return the network after its last epoch."""
    *_, net = train(x, labels, kl_weight, epochs)
    return net


def flat(net: micro.Net, name: str) -> Array:
    """One array of all layers, in one row; "log_alpha" is infinite where theta is 0."""
    if name == "log_alpha":
        with np.errstate(divide="ignore"):
            return flat(net, "log_sigma2") - np.log(flat(net, "theta") ** 2)
    return np.concatenate([layer[name].ravel() for layer in net])


def facts(net: micro.Net, x: Array, labels: Array) -> dict[str, Any]:
    """Weights that are left, and error of the pruned network on these images."""
    error = (micro.predict(net, x).argmax(axis=1) != labels).mean()
    return {"kept": int(sum(micro.kept(layer).sum() for layer in net)), "error": round(float(error), 4)}


# ------------------------------------------------------------ what the page shows


def record(x: Array, labels: Array, x_test: Array, test_labels: Array) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return `micro`'s run, epoch by epoch and rounded to bytes, and its facts."""
    rows: dict[str, list[Array]] = {"logAlpha": [], "logSigma2": [], "theta": [], "scale": [], "bias": []}
    course = []
    for net in train(x, labels, warm_up):
        # Rounded up, so that log_alpha <= 3 says the same before and after.
        rows["logAlpha"].append(np.clip(np.ceil(STEPS * flat(net, "log_alpha")), -128, 127))
        rows["logSigma2"].append(np.clip(np.rint(STEPS * (flat(net, "log_sigma2") + SIGMA_SHIFT)), -128, 127))
        scales = [np.abs(layer["theta"]).max() / 127 for layer in net]
        rounded = [np.rint(layer["theta"] / scale) for layer, scale in zip(net, scales, strict=True)]
        rows["theta"].append(np.concatenate([theta.ravel() for theta in rounded]))
        rows["scale"].append(np.array(scales))
        rows["bias"].append(flat(net, "bias"))
        course.append(facts(net, x_test, test_labels))
    arrays = {name: np.array(values) for name, values in rows.items()}
    for name in ("logAlpha", "logSigma2", "theta"):  # differences from the epoch before take fewer bits
        arrays[name] = np.diff(arrays[name].astype(np.int8), axis=0, prepend=np.int8(0))
    arrays |= {name: arrays[name].astype(np.float32) for name in ("scale", "bias")}
    return arrays, {"kept": [c["kept"] for c in course], "error": [c["error"] for c in course]}


def clinic(x: Array, labels: Array, x_test: Array, test_labels: Array) -> list[dict[str, Any]]:
    """Six histograms of log_alpha with what is behind them, in the order in which the page shows them."""
    n = len(x)
    blank, blank_test = x.copy(), x_test.copy()
    blank[:, BLANK] = blank_test[:, BLANK] = 0
    cases = {
        "over": (x, lambda epoch: 10 * warm_up(epoch), EPOCHS, x_test),
        "light": (x, lambda epoch: warm_up(epoch) / n, EPOCHS, x_test),
        "dead": (blank, warm_up, EPOCHS, blank_test),
        "healthy": (x, warm_up, EPOCHS, x_test),
        "unfinished": (x, warm_up, UNFINISHED, x_test),
        "heavy": (x, lambda epoch: n * warm_up(epoch), EPOCHS, x_test),
    }
    found = []
    for name, (inputs, kl_weight, epochs, test) in cases.items():
        net = trained(inputs, labels, kl_weight, epochs)
        counts, _ = np.histogram(np.clip(flat(net, "log_alpha"), EDGES[0], EDGES[-1] - 0.5), EDGES)
        found.append({"name": name, "counts": counts.tolist(), "epochs": epochs, **facts(net, test, test_labels)})
    return found


def gradient_variance(x: Array, labels: Array) -> dict[str, list[float]]:
    """Log10 of the variance over noise of one layer's gradient for theta, at each log_alpha; as in notebook 2.

    The layer is softmax regression, trained without noise; the batch its first 100 images. "shared" draws one noise per
    weight for the whole batch, "local" one per image and output.
    """
    x, targets = x[:, x.std(axis=0) > 0], np.eye(10)[labels]
    theta = np.random.default_rng(1).normal(0, 0.1, (x.shape[1], 10))

    def wrong(y: Array, count: int) -> Array:
        p = np.exp(y - y.max(axis=1, keepdims=True))
        return (p / p.sum(axis=1, keepdims=True) - targets[:count]) / count

    for _ in range(300):
        theta -= 0.5 * x.T @ wrong(x @ theta, len(x))
    batch, found = x[:100], {"shared": [], "local": []}
    for log_alpha in LOG_ALPHAS:
        sigma, rng = np.abs(theta) * np.exp(log_alpha / 2), np.random.default_rng(3)
        std = np.sqrt(batch**2 @ sigma**2)
        shared = [batch.T @ wrong(batch @ (theta + sigma * rng.normal(size=theta.shape)), 100) for _ in range(DRAWS)]
        local = [batch.T @ wrong(batch @ theta + std * rng.normal(size=std.shape), 100) for _ in range(DRAWS)]
        found["shared"].append(round(float(np.log10(np.var(shared, axis=0).mean())), 3))
        found["local"].append(round(float(np.log10(np.var(local, axis=0).mean())), 3))
    return found


def gather() -> dict[str, str]:
    """Train everything and return DESCRIPTION and NUMBERS, as they stand in the page."""
    x, labels, x_test, test_labels = digits()
    unit, unit_test = x / 16, x_test / 16
    arrays, course = record(unit, labels, unit_test, test_labels)
    arrays = {"x": x, "labels": labels, "xTest": x_test, "testLabels": test_labels, **arrays}
    description = {
        "arrays": [[name, array.dtype.str[1:], list(array.shape)] for name, array in arrays.items()],
        "sizes": SIZES, "epochs": EPOCHS, "batch": BATCH, "lr": LR, "steps": STEPS, "sigmaShift": SIGMA_SHIFT,
        "course": course,
        "edges": EDGES.tolist(),
        "clinic": clinic(unit, labels, unit_test, test_labels),
        "variance": gradient_variance(unit, labels),
    }  # fmt: skip
    content = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays.values())
    return {
        "DESCRIPTION": json.dumps(description, separators=(",", ":")),
        "NUMBERS": base64.b64encode(zlib.compress(content, 9)).decode(),
    }


# ------------------------------------------------------------ the page


def data_of(page: str) -> dict[str, str]:
    """Return the data that a page holds."""
    found = {name: re.search(rf'<script id="{name.lower()}".*?>(.*?)</script>', page) for name in DATA}
    return {name: match[1] for name, match in found.items() if match}


def fill(data: dict[str, str]) -> str:
    """Put style and scripts around the data."""
    read = {name: page_html._read(name) for name in SHARED}
    parts = {
        **data,
        "STYLE": read["page.css"] + source("play.css"),
        "SCRIPTS": "\n".join([read["helpers.js"], *(source(f"{name}.js") for name in SCRIPTS)]),
    }
    return re.sub("@([A-Z]+)@", lambda word: parts[word[1]], source("play.html"))


def source(name: str) -> str:
    """Text of a file in docs/play/."""
    return (SOURCES / name).read_text(encoding="utf-8")


def main() -> None:
    """Rewrite the page if it has fallen behind, or from new runs."""
    old = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    new = fill(gather() if "--train" in sys.argv[1:] else data_of(old))
    if new != old:
        write_atomic(PAGE, new.encode())
        print(f"{PAGE.name} was written anew: {len(new.encode()):,} bytes")


if __name__ == "__main__":
    main()
