"""Compact networks: what remains of a pruned network, and its fast inference."""

from svd_numpy.sparse.model import CompressionError, SparseModel, compress
from svd_numpy.sparse.ops import ConvOp, DenseOp, Op, PadOp, PoolOp, ScaleOp, TakeOp, Weights
from svd_numpy.sparse.recurrent import RecurrentModel

__all__ = [
    "CompressionError", "ConvOp", "DenseOp", "Op", "PadOp", "PoolOp", "RecurrentModel", "ScaleOp", "SparseModel",
    "TakeOp", "Weights", "compress",
]  # fmt: skip
