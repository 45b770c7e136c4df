"""Sparse inputs: the same network as from dense ones, without ever being dense as a whole."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import coo_array, csc_matrix, csr_array, csr_matrix
from small_runs import bits, make_config, make_data, make_net, timeless

import svd_numpy as svd
from svd_numpy.data import Dataset


def both() -> tuple[Dataset, Dataset]:
    """The same rows, dense and sparse."""
    data = make_data().split(30)
    rng = np.random.default_rng(0)
    thin = {
        f"x_{part}": np.where(rng.random(x.shape) < 0.5, x, 0).astype(np.float32)
        for part in ("train", "valid", "test")
        for x in [getattr(data, f"x_{part}")]
    }
    sparse = {name: kind(x) for (name, x), kind in zip(thin.items(), (csr_matrix, csc_matrix, csr_array), strict=True)}
    return replace(data, **thin), replace(data, **sparse)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_the_same_bits_as_from_dense_rows(backend: str) -> None:
    dense, sparse = both()
    mean = dense.x_train.mean(axis=0)
    one, other = (make_net(backend, input_mean=mean) for _ in range(2))
    settings = make_config(eval_every=1)
    records = [svd.fit(net, data, settings, progress=False) for net, data in ((one, dense), (other, sparse))]
    assert bits(one) == bits(other) and timeless(records[0]) == timeless(records[1])
    for x, y in ((dense.x_test, sparse.x_test), (dense.x_test[:0], sparse.x_test[:0])):
        np.testing.assert_array_equal(one.predict(x), one.predict(y))
        np.testing.assert_array_equal(one.sample(x, 2), one.sample(y, 2))
    assert svd.evaluate(one, dense.x_test, dense.y_test) == svd.evaluate(one, sparse.x_test, sparse.y_test)
    assert one.loss(dense.x_test, dense.y_test, 80) == one.loss(coo_array(dense.x_test), dense.y_test, 80)


def test_a_run_goes_on_only_with_the_same_rows(tmp_path: Path) -> None:
    _, sparse = both()
    svd.fit(make_net(), sparse, make_config(), run_dir=tmp_path, progress=False)
    svd.fit(make_net(), sparse, make_config(), run_dir=tmp_path, resume=True, progress=False)
    changed = sparse.x_train.copy()
    changed.data[0] += 1
    with pytest.raises(svd.SvdValueError, match=r"another data \(differs in \['sha256'\]"):
        other = replace(sparse, x_train=changed)
        svd.fit(make_net(), other, make_config(), run_dir=tmp_path, resume=True, progress=False)


@pytest.mark.parametrize("estimator", [svd.SparseVDClassifier, svd.SparseVDRegressor])
def test_a_wide_table_is_never_dense(estimator: Any) -> None:
    """As float64 this table would take 640 MB; a thousand rows of it take 32 MB."""
    rng = np.random.default_rng(0)
    places = rng.integers(0, 20_000, 40_000), rng.integers(0, 4000, 40_000)
    x = csr_matrix((rng.random(40_000), places), shape=(20_000, 4000))
    y = (np.asarray(x[:, :50].sum(axis=1)).ravel() > 0).astype(float)
    model = estimator((), epochs=1, batch_size=500, backend="numpy", random_state=0)
    tracemalloc.start()
    model.fit(x, y)
    predicted = model.predict(x)
    model.partial_fit(x, y)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert predicted.shape == (20_000,) and most < 250e6


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x * np.nan, "x_train: example 0 holds NaN"),
        (lambda x: x.astype(complex), "x_train: got a sparse csr_matrix of complex128"),
        (lambda x: x[:, :5], "x_train has 5 columns but x_test has 12"),
    ],
)
def test_sparse_rows_that_cannot_be_used(change: Any, words: str) -> None:
    _, sparse = both()
    with pytest.raises((svd.SvdValueError, svd.SvdTypeError), match=words):
        replace(sparse, x_train=change(sparse.x_train).tocsr())


def test_a_model_refuses_rows_of_another_width() -> None:
    with pytest.raises(svd.SvdValueError, match=r"x: got shape \(2, 3\), expected \(B, 12\)"):
        make_net().predict(csr_matrix((2, 3)))
    with pytest.raises(svd.SvdValueError, match=r"x: got a sparse coo_array of shape \(12,\), expected rows"):
        make_net().predict(coo_array(np.ones(12)))
    with pytest.raises(svd.SvdValueError, match=r"x_train: got no example \(shape \(0, 12\)\)"):
        svd.fit(make_net(), replace(both()[1], x_train=csr_matrix((0, 12)), y_train=np.zeros(0, int)), progress=False)
