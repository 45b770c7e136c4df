"""Small files that describe large networks: zeros, padding and runs cost nothing in a file, but memory here."""

from __future__ import annotations

import tracemalloc
import zlib
from dataclasses import replace

import numpy as np
import pytest

import svd_numpy as svd
from svd_numpy.files.safe_arrays import CheckpointError
from svd_numpy.kernels.window import Window
from svd_numpy.sparse import ConvOp, DenseOp, Op, SparseModel, TakeOp, Weights
from svd_numpy.sparse.storage import packed
from svd_numpy.sparse.storage.coder import Writer
from svd_numpy.sparse.storage.layout import Budget, Layout


def forged(*ops: Op) -> bytes:
    """A packed file of ops that may form no sensible network."""
    layout = Layout(writer := Writer(), Budget(2**62))
    layout.likelihood(svd.Categorical())
    layout.network(ops)
    body = writer.finish()
    return packed.MAGIC + bytes([packed.VERSION]) + zlib.crc32(body).to_bytes(4, "big") + body


def counting(size: int) -> np.ndarray:
    return np.arange(size, dtype=np.int32)


def test_zeros_of_all_layers_are_counted() -> None:
    """Sparse layers without a weight take no space in a file."""
    side = 2**14
    empty = Weights((side, side), np.zeros(0, np.float32), counting(0), np.zeros(side + 1, np.int32))
    dense = DenseOp("dense", (side, side), counting(side), empty, np.zeros(side, np.float32), True)
    take = TakeOp("input", (side,), (side,), counting(side), None)
    SparseModel([take, dense], svd.Categorical(), "numpy")
    with pytest.raises(ValueError, match=r"op 2 .*2\*\*28 weights"):
        SparseModel([take, dense, dense], svd.Categorical(), "numpy")


def test_a_plan_is_made_from_lists() -> None:
    """Preparing the compiled kernel takes memory for the weights that are there, not for the zeros between them."""
    side = 2**13
    rows, starts = counting(side), np.arange(side + 1, dtype=np.int32)
    diagonal = Weights((side, side), np.ones(side, np.float32), rows, starts)
    ops = (
        TakeOp("input", (side,), (side,), counting(side), None),
        DenseOp("d", (side, side), counting(side), diagonal, np.zeros(side, np.float32), False),
    )
    tracemalloc.start()
    try:
        small = SparseModel(ops, svd.Categorical(), "numba")
        assert tracemalloc.get_traced_memory()[1] < 2**25  # all 2**26 cells would take 2**28 bytes
    finally:
        tracemalloc.stop()
    x = np.random.default_rng(0).normal(size=(1, side)).astype(np.float32)
    np.testing.assert_array_equal(small.predict(x), x)


def test_padding_of_all_layers_is_counted() -> None:
    weights = Weights((1, 1), np.ones((1, 1), np.float32))
    window = Window(1, 1, 1, (1, 1), (2048, 2048), (1000, 1000))
    assert window.out == (1, 1)
    conv = ConvOp("conv", (1, 1, 1, 1), window, weights, np.zeros(1, np.float32), False)
    ops = [TakeOp("input", (1, 1, 1), (1, 1, 1), counting(1), None), *[conv] * 6]
    SparseModel(ops[:5], svd.Categorical(), "numpy")
    with pytest.raises(ValueError, match=r"op 5 .*activations"):
        SparseModel(ops, svd.Categorical(), "numpy")


def test_a_few_bytes_are_decoded_in_a_moment() -> None:
    """Each element takes microseconds, so that a million of them for free would take many seconds."""
    content = forged(TakeOp("input", (2**17,), (2**17,), counting(2**17), None))
    assert len(content) < 100
    with pytest.raises(CheckpointError, match="too large for the file"):
        svd.unpack(content, "numpy")


@pytest.mark.parametrize(("side", "size"), [("height", 9.0), ("channels", True)])
def test_sizes_of_images_are_whole_numbers(side: str, size: float) -> None:
    take = TakeOp("input", (1, 9, 9), (9, 9, 1), counting(81), None)
    weights = Weights((1, 1), np.ones((1, 1), np.float32))
    conv = ConvOp("conv1", (1, 1, 1, 1), Window(9, 9, 1, (1, 1)), weights, np.zeros(1, np.float32), True)
    SparseModel([take, conv], svd.Categorical(), "numpy")
    window = conv.window._replace(**{side: size})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="looks at images"):
        SparseModel([take, replace(conv, window=window)], svd.Categorical(), "numpy")
