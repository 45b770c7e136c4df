"""The CUDA backend against the plain one. Not collected by itself: `test_cuda.py` runs it in Numba's simulator.

On a machine with a device, `pytest tests/cuda_backend.py` runs it there.
"""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import test_conv
import test_dropout
import test_gather_images
import test_image_layers
import test_kernels
from numpy.typing import NDArray
from small_runs import bits, make_config, make_data, make_net, timeless

import svd_numpy as svd
from svd_numpy.data import Dataset
from svd_numpy.kernels.backend import AdamSettings, Buffers, NoiseKey
from svd_numpy.kernels.cuda import detect
from svd_numpy.kernels.cuda import product as products
from svd_numpy.kernels.reference import ReferenceBackend
from svd_numpy.kernels.window import Window
from svd_numpy.params import Arena
from svd_numpy.priors import PRIORS
from svd_numpy.train import Trainer

if reason := detect.why_not():
    pytest.skip(reason, allow_module_level=True)
from svd_numpy.kernels.cuda.backend import CudaBackend  # noqa: E402  (it needs numba.cuda)

# In the simulator a kernel is Python, in which a float32 that overflows warns.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
Array = NDArray[Any]
PLAIN = ReferenceBackend(np.float64)


class Mirrored:
    """A backend whose operations take what the host holds and give it back: tests need not say to_device and to_host."""

    name, dtype = "cuda", np.dtype(np.float32)

    def __init__(self) -> None:
        self._backend: Any = CudaBackend()

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._backend, name)

        def run(*args: Any, **options: Any) -> Any:
            arrays = [array for arg in (*args, *options.values()) for array in _arrays(arg)]
            self._backend.to_device(*arrays)
            result = operation(*args, **options)
            later = [array for arg in (*args, *options.values()) for array in _arrays(arg)]
            self._backend.to_host(*(array for array in later if array.flags.writeable))
            return result

        return run


def _arrays(arg: Any) -> list[Array]:
    if isinstance(arg, Arena):
        return [arg.params, arg.grads, arg.m, arg.v]
    if isinstance(arg, Buffers):
        return list(arg._arrays.values())
    return [arg] if isinstance(arg, np.ndarray) else []


CUDA = Mirrored()
assert_close = test_kernels.assert_close
SHAPES = [(1, 1, 1), (7, 33, 65), (13, 17, 3), (5, 7, 130), (3, 260, 5)]


# --- The contract, operation by operation ---


@pytest.mark.parametrize("shape", SHAPES)
def test_lrt(shape: tuple[int, int, int]) -> None:
    for keep, want_dx, relu in ((0.0, True, False), (math.exp(-3), True, True)):
        got = test_kernels.lrt(CUDA, shape, keep, want_dx, relu=relu)
        assert_close(got, test_kernels.lrt(PLAIN, shape, keep, want_dx, relu=relu))


@pytest.mark.parametrize("shape", SHAPES)
def test_dense(shape: tuple[int, int, int]) -> None:
    assert_close(test_kernels.dense(CUDA, shape, True), test_kernels.dense(PLAIN, shape, True))


def test_products_cut_in_slices_and_in_large_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (19, 37, 70)
    expected = test_kernels.lrt(PLAIN, shape, 0.05, True, relu=True), test_kernels.dense(PLAIN, shape, True)
    monkeypatch.setattr(products, "SHORTEST", 8)
    assert products.plan(19, 70, 37).slices > 1
    cut = test_kernels.lrt(CUDA, shape, 0.05, True, relu=True), test_kernels.dense(CUDA, shape, True)
    monkeypatch.setattr(products, "ENOUGH_BLOCKS", 1)
    assert products.plan(19, 70, 37).tile == "large"
    large = test_kernels.lrt(CUDA, shape, 0.05, True, relu=True), test_kernels.dense(CUDA, shape, True)
    for got in (cut, large):
        for one, wanted in zip(got, expected, strict=True):
            assert_close(one, wanted)
