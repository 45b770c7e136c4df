"""Convolutions of whose output gradients few are not 0, as behind a max-pooling: kernels with lists of those."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_living import run
from thread_counts import assert_same_bits

import svd_numpy as svd
from svd_numpy.kernels import get_backend
from svd_numpy.kernels.cpu import conv_events, conv_few
from svd_numpy.kernels.living import Living
from svd_numpy.kernels.window import Window

# Window, outputs, examples: one run of taps and many, runs longer than a vector, all geometry, blocks within an image.
CASES = [
    (Window(28, 28, 1, (5, 5)), 20, 3), (Window(12, 12, 20, (5, 5)), 50, 17), (Window(5, 5, 17, (1, 1)), 3, 9),
    (Window(9, 8, 3, (3, 2), (2, 1), (1, 1), (1, 2)), 17, 30), (Window(12, 12, 7, (3, 3), padding=(1, 1)), 5, 9),
    (Window(40, 40, 90, (2, 2)), 2, 2), (Window(6, 6, 2, (3, 3)), 130, 6), (Window(40, 40, 20, (2, 2)), 2, 17),
]  # fmt: skip


def problem(window: Window, outputs: int, batch: int, share: float = 0.2) -> list[Any]:
    """Inputs, theta, log_sigma2, bias, and output gradients of which a share is not 0; some positions have none."""
    rng = np.random.default_rng(0)
    shapes = (
        (batch, *window[:3]),
        (window.taps, outputs),
        (window.taps, outputs),
        (outputs,),
        (batch, *window.out, outputs),
    )
    arrays = [rng.standard_normal(shape) for shape in shapes]
    arrays[-1] *= rng.random(shapes[-1]) < share
    arrays[-1][:, ::2, ::2] = 0
    return arrays


def at_living(arrays: list[Any], share: float) -> tuple[Living, list[Any]]:
    """A list of a share of the weights, and the arrays with these alone."""
    x, theta, log_sigma2, bias, dy = arrays
    lists = Living.of(np.random.default_rng(1).random(theta.shape) < share)
    return lists, [x, theta[lists.rows, lists.columns], log_sigma2[lists.rows, lists.columns], bias, dy]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every call of these kernels."""
    found = list[int]()
    for module in (conv_few, conv_events):
        backward = module.backward
        monkeypatch.setattr(module, "backward", lambda *args, to=backward: (found.append(1), to(*args)))
    return found


@pytest.mark.parametrize("living", [None, 0.3, 0.0], ids=["matrix", "lists", "nothing left"])
@pytest.mark.parametrize("plain", [False, True], ids=["variational", "plain"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_are_those_of_the_reference(case: Any, plain: bool, living: Any, calls: list[int]) -> None:
    window, arrays, lists = case[0], problem(*case), None
    if living is not None:
        if window.stride != (1, 1):
            pytest.skip("lists need a stride of 1")
        lists, arrays = at_living(arrays, living)
    wanted = run(get_backend("numpy", "float64"), lists, arrays, window, plain, 0.3)
    found = run(get_backend("numba"), lists, arrays, window, plain, 0.3)
    assert calls
    for name, one, other in zip(("y", "d_theta", "d_sigma2", "d_bias", "dx"), found, wanted, strict=True):
        scale = max(1, np.abs(other).max(initial=0))
        np.testing.assert_allclose(one, other, rtol=0, atol=3e-6 * scale, err_msg=name)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.9])
def test_many_gradients_are_left_to_products_of_matrices(share: float, calls: list[int]) -> None:
    arrays = problem(*CASES[4], share)
    wanted = run(get_backend("numpy", "float64"), None, arrays, CASES[4][0], True, 0.0)
    for one, other in zip(run(get_backend("numba"), None, arrays, CASES[4][0], True, 0.0), wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * max(1, np.abs(other).max()))
    assert bool(calls) == (share < 0.5)


@pytest.mark.parametrize("living", [None, 0.3], ids=["matrix", "lists"])
@pytest.mark.parametrize("case", [CASES[0], CASES[4], CASES[5]], ids=str)
def test_the_same_bits_on_any_number_of_threads(case: Any, living: Any, calls: list[int]) -> None:
    arrays, lists = problem(*case), None
    if living is not None:
        lists, arrays = at_living(arrays, living)
    assert_same_bits(lambda: run(get_backend("numba"), lists, arrays, case[0], False, 0.3))
    assert calls


def test_a_nan_is_not_lost(calls: list[int]) -> None:
    arrays = problem(*CASES[4])
    arrays[-1][2, 1, 1, 3] = np.nan
    _, d_theta, _, d_bias, dx = run(get_backend("numba"), None, arrays, CASES[4][0], True, 0.0)
    assert calls and np.isnan(d_theta[:, 3]).any() and np.isnan(d_bias[3]) and np.isnan(dx[2]).any()
    assert np.isfinite(np.delete(d_theta, 3, axis=1)).all()


def test_finite_differences_through_pooling(calls: list[int]) -> None:
    layers = (
        svd.VariationalConv2d(1, 6, 3), svd.ReLU(), svd.MaxPool2d(2), svd.VariationalConv2d(6, 5, 3, padding=1),
        svd.ReLU(), svd.MaxPool2d(2), svd.Flatten(), svd.VariationalDense(5 * 4 * 4, 3),
    )  # fmt: skip
    model = svd.Sequential(*layers, backend="numba", input_shape=(1, 18, 18), seed=3)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((12, 1, 18, 18)).astype(np.float32), np.arange(12) % 3
    found = svd.gradcheck(model, x, y)
    assert found.ok, str(found)
    assert len(calls) == 2
