"""Small files: bit precision, the packed format, and the size of a network as each paper counts it."""

from svd_numpy.sparse.storage.accounts import Account, LayerSize, Sizes, sizes
from svd_numpy.sparse.storage.packed import load_packed, pack, save_packed, unpack
from svd_numpy.sparse.storage.precision import posterior_bits
from svd_numpy.sparse.storage.quantisation import quantise, search_bits

__all__ = [
    "Account", "LayerSize", "Sizes", "load_packed", "pack", "posterior_bits", "quantise", "save_packed", "search_bits",
    "sizes", "unpack",
]  # fmt: skip
