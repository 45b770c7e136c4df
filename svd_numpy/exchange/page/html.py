"""`export_html`: one file with everything that the page needs, so that no request leaves it."""

from __future__ import annotations

import base64
import html
import itertools
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from svd_numpy.checks import (
    SvdValueError,
    check_file,
    check_inputs,
    check_labels,
    check_some,
    check_threshold,
    check_type,
)
from svd_numpy.exchange.page.data import ALPHA_STEPS, check_drawable, network_bytes, weights_of
from svd_numpy.files.atomic import write_atomic
from svd_numpy.kernels.backend import Array
from svd_numpy.network.model import Sequential
from svd_numpy.network.objective import Categorical

_PAGE, _SCRIPTS = "page.html", ("helpers", "bytes", "network", "pictures", "demo")  # of a network for digits
MOST_BYTES = 200_000
_MOST_DIGITS, _LEAST_DIGITS = 400, 50
_STEP = 10  # in which digits are added
_BEYOND = (16, 8, 0)  # eighths by which the slider goes beyond the threshold: the most for which the page has room
_FOLDER = Path(__file__).parent


def export_html(
    model: Sequential,
    path: str | Path,
    x: Any,
    y: Any,
    *,
    log_alphas: Mapping[str, Any] | None = None,
    threshold: float | None = None,
    title: str = "A network that has forgotten almost everything",
) -> Path:
    """Write a trained network as one web page, on which one draws digits for it.

    The page shows what the network reads, which of its weights and units live and light up, what a threshold on
    log_alpha costs in weights, bytes and errors on test digits, how a cut by size compares, and what the network is
    unsure of. It has at most 200,000 bytes and loads nothing from elsewhere.

    Parameters
    ----------
    model : Sequential
        A classifier of 28 x 28 pixels with dense layers, convolutions, BatchNorm, ReLU, pooling.
    path : path
        Ending in .html.
    x, y : arrays (N, ...) of uint8, (N,)
        Test digits; the page takes the first 50 to 400, as many as it has room for.
    log_alphas : mapping of layer name to array, optional
        log_alpha from before fine-tuning, which overwrites it (`TrainResult.log_alphas`); default: the model's own.
    threshold : float, optional
        Where the slider begins; default: the model's threshold. With `log_alphas`, that of the fine-tuning.
    title : str

    Returns
    -------
    Path

    Raises
    ------
    SvdValueError, SvdTypeError
        For a network or digits that do not fit the page, naming the layer.
    """
    check_type("model", model, Sequential)
    check_type("title", title, str)
    target = check_file("path", path, ".html")
    if not isinstance(model.likelihood, Categorical):
        raise SvdValueError(f"model: got the likelihood {model.likelihood!r}, expected a classifier's, Categorical()")
    check_drawable(model)
    threshold = model.threshold if threshold is None else check_threshold("threshold", threshold)
    digits = check_inputs("x", x, model.in_shape)[:_MOST_DIGITS]
    if digits.dtype != np.uint8:
        raise SvdValueError(f"x: got {digits.dtype}, expected uint8 pixels, as they are in the files of MNIST")
    check_some("x", digits)
    labels = check_labels("y", y, len(x), model.n_outputs)[:_MOST_DIGITS].astype(np.uint8)
    write_atomic(target, _page(model, log_alphas, threshold, title, digits, labels).encode())
    return target


def _page(
    model: Sequential, log_alphas: Mapping[str, Any] | None, threshold: float, title: str, x: Array, y: Array
) -> str:
    """Fill the page with as many weights beyond the threshold, and then as many digits, as it has room for."""
    weights = weights_of(model, log_alphas)
    start = int(np.ceil(threshold * ALPHA_STEPS))
    # A fine-tuned network has nothing beyond its threshold.
    highest = max(start, max((int(w.log_alpha[w.alive].max(initial=start)) for w in weights.values()), default=start))
    least = min(_LEAST_DIGITS, len(x))
    for beyond in _BEYOND:
        described, numbers = network_bytes(model, weights, min(start + beyond, highest))
        pages = (
            _filled(title, described | {"start": start}, numbers, x[:n], y[:n]) for n in range(least, len(x) + 1, _STEP)
        )
        fitting = list(itertools.takewhile(lambda page: len(page.encode()) <= MOST_BYTES, pages))
        if fitting:
            return fitting[-1]
    raise SvdValueError(
        f"export_html: the page would have more than {MOST_BYTES:,} bytes; lower the threshold, so that fewer weights "
        "are left"
    )


def _filled(title: str, described: Mapping[str, Any], numbers: bytes, x: Array, y: Array) -> str:
    content = numbers + x.tobytes() + y.tobytes()
    return fill(title, {**described, "digits": len(x)}, content)


def fill(
    title: str, described: Mapping[str, Any], numbers: bytes, page: str = _PAGE, scripts: Sequence[str] = _SCRIPTS
) -> str:
    """Fill a page: style, scripts, title, what is described as JSON, and numbers, compressed."""
    data = {
        "TITLE": html.escape(title),
        "DESCRIPTION": json.dumps(described, separators=(",", ":")).replace("<", "\\u003c"),
        "NUMBERS": base64.b64encode(zlib.compress(numbers, 9)).decode(),
    }
    return filled_with(data, page, scripts)


def filled_with(data: Mapping[str, str], page: str = _PAGE, scripts: Sequence[str] = _SCRIPTS) -> str:
    """Put style and scripts around a page's TITLE, DESCRIPTION and NUMBERS, all three as they stand in the file."""
    files = {"STYLE": "page.css", **{name.upper(): f"{name}.js" for name in scripts}}
    parts = {**data, **{part: _read(name) for part, name in files.items()}}
    return re.sub("@([A-Z]+)@", lambda word: parts[word[1]], _read(page))


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")
