"""ONNX graphs that answer like a classifier or an estimator: probabilities, labels, raw tables."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sparse_tools import NETWORKS, inputs_of, kill

import svd_numpy as svd

pytest.importorskip("onnx", reason="onnx is not installed")
runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


def run(path: Path, x: Any) -> dict[str, Any]:
    """Run a graph in onnxruntime, and compare with the reference of `onnx`."""
    from onnx.reference import ReferenceEvaluator

    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(names, {"x": x}), strict=True))
    for name, other in zip(names, ReferenceEvaluator(str(path)).run(names, {"x": x}), strict=True):
        if found[name].dtype.kind == "f":
            np.testing.assert_allclose(found[name], other, rtol=1e-4, atol=1e-5)
        else:
            np.testing.assert_array_equal(found[name], other)
    return found


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("name", ["lenet-300-100, mean", "lenet-5", "images"])
def test_probabilities_and_labels_are_those_of_the_network(name: str, sparse: bool, tmp_path: Path) -> None:
    small = svd.compress(kill(NETWORKS[name](), 0.2), backend="numpy")
    path, x = tmp_path / "net.onnx", inputs_of(small, 9)
    svd.export_onnx(small, path, sparse, probabilities=True)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["outputs", "probabilities", "label"]
    outputs, probabilities, label = session.run(None, {"x": x})
    np.testing.assert_allclose(outputs, small.predict(x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(probabilities, small.predict_proba(x), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(label, small.predict(x).argmax(axis=1))
    assert label.dtype == np.int64


def table() -> tuple[Any, Any]:
    """Three classes, told apart by two of five columns; the columns have quite different scales."""
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    x = rng.normal(size=(90, 5))
    x[:, 1] += 3 * (y == 1)
    x[:, 3] += 3 * (y == 2)
    return x * [1, 1e-3, 1, 1e4, 1] + [0, 7, 0, 1e6, 0], y


CLASSES = {
    "numbers": np.array([-5, 0, 12]),
    "text": np.array(["ash", "birch", "räksmörgås"]),
    "objects": np.array(["ash", "birch", "elm"], object),
    "floats": np.array([1.0, 2.0, 4.0]),
}


@pytest.mark.parametrize("kind", CLASSES)
def test_a_classifier_takes_raw_tables_and_gives_its_own_labels(kind: str, tmp_path: Path) -> None:
    x, y = table()
    model = svd.SparseVDClassifier(epochs=20, random_state=0).fit(x, CLASSES[kind][y])
    svd.export_onnx(model, tmp_path / "net.onnx", probabilities=True)
    found = run(tmp_path / "net.onnx", x)
    np.testing.assert_allclose(found["probabilities"], model.predict_proba(x), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(found["label"], model.predict(x))
    assert (model.predict(x) == CLASSES[kind][y]).mean() > 0.8
    svd.export_onnx(model, tmp_path / "plain.onnx")
    assert list(run(tmp_path / "plain.onnx", x)) == ["outputs"]


def test_two_classes_of_flags(tmp_path: Path) -> None:
    x, y = table()
    model = svd.SparseVDClassifier((), epochs=10, random_state=0).fit(x, y > 0)
    svd.export_onnx(model, tmp_path / "net.onnx", probabilities=True)
    found = run(tmp_path / "net.onnx", x)
    assert found["label"].dtype == bool
    np.testing.assert_array_equal(found["label"], model.predict(x))


@pytest.mark.parametrize("targets", [1, 2])
def test_a_regressor_gives_targets_in_their_own_units(targets: int, tmp_path: Path) -> None:
    x, y = table()
    y = x[:, 3] / 1e4 + np.sin(x[:, 0])
    y = y if targets == 1 else np.column_stack([y, 1e6 + 0.01 * y])
    model = svd.SparseVDRegressor(epochs=20, random_state=0).fit(x, y)
    svd.export_onnx(model, tmp_path / "net.onnx")
    found = run(tmp_path / "net.onnx", x)["outputs"]
    assert found.dtype == np.float64
    wanted = model.predict(x).reshape(found.shape)
    assert (np.abs(found - wanted).max(axis=0) < 1e-5 * wanted.std(axis=0)).all()


def test_what_has_no_probabilities_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.onnx"
    line = svd.compress(svd.Sequential(svd.Dense(3, 2), likelihood="gaussian"), backend="numpy")
    with pytest.raises(svd.SvdValueError, match="True for a regression"):
        svd.export_onnx(line, path, probabilities=True)
    with pytest.raises(svd.SvdTypeError, match="probabilities: got 1"):
        svd.export_onnx(line, path, probabilities=1)  # type: ignore[arg-type]
    with pytest.raises(svd.SvdValueError, match="not fitted"):
        svd.export_onnx(svd.SparseVDClassifier(), path)
    with pytest.raises(svd.SvdTypeError, match="got a Sequential, expected a SparseModel"):
        svd.export_onnx(svd.Sequential(svd.Dense(3, 2)), path)
    x, y = table()
    model = svd.SparseVDClassifier((), epochs=2, random_state=0).fit(x, y)
    model.classes_ = np.array([(1,), (2, 3), "x"], object)
    with pytest.raises(svd.SvdTypeError, match="expected numbers or text"):
        svd.export_onnx(model, path, probabilities=True)
    assert not path.exists()
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"svd-numpy\[export\]"):
        svd.export_onnx(model, path)
