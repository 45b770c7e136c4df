"""How small is a network? One network, counted the way each paper counts.

"Compression" is a ratio of two counts, and papers differ in what they count: weights, bytes with or without indices and
biases, bits, multiplications. For the same network the results can differ tenfold, so every number here names the paper
that counts this way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from svd_numpy.checks import SvdTypeError, SvdValueError, check_bits, check_threshold
from svd_numpy.files.npz import npz_bytes
from svd_numpy.kernels.backend import Array
from svd_numpy.network.fold import fold_gates
from svd_numpy.network.layers.weighted import Weighted
from svd_numpy.network.model import Sequential
from svd_numpy.sparse import ConvOp, DenseOp, SparseModel, compress
from svd_numpy.sparse.storage.layout import find_step
from svd_numpy.sparse.storage.packed import pack
from svd_numpy.sparse.storage.precision import code_bits

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOLCHANOV = "Sparse VD, Molchanov et al. 2017"
HAN = "Deep Compression, Han et al. 2016"
LOUIZOS = "Bayesian Compression, Louizos et al. 2017"
NEKLYUDOV = "Structured Bayesian Pruning, Neklyudov et al. 2017"
OWN = "every byte of a file"
_FLOAT = 32  # bits


@dataclass(frozen=True)
class LayerSize:
    """One layer with weights.

    Attributes
    ----------
    name : str
    before : tuple of int
        Shape of its weights before pruning: (I, O), or (KH, KW, C, O).
    kept : int
        Weights that are not zero.
    live : (int, int)
        After compaction: inputs (of a convolution: channels) that are read, and outputs that vary and are read.
    biases : (int, int)
        Before pruning and after. A compact network does not record the former; it is counted as one per output.
    positions : int
        How many times each weight is used for one example.
    bits : int
        Bits per weight: 32, or fewer if the weights are multiples of a step.
    """

    name: str
    before: tuple[int, ...]
    kept: int
    live: tuple[int, int]
    biases: tuple[int, int]
    positions: int
    bits: int

    @property
    def weights(self) -> int:
        """Weights before pruning."""
        return math.prod(self.before)

    @property
    def area(self) -> int:
        """Weights, 0 or not, of the matrix of live inputs and live outputs."""
        return math.prod(self.before[:-2]) * math.prod(self.live)

    @property
    def units(self) -> int:
        """What papers call its architecture: live filters of a convolution, live inputs of a dense layer."""
        return self.live[1] if len(self.before) > 2 else self.live[0]


@dataclass(frozen=True)
class Account:
    """One way to count.

    Attributes
    ----------
    what : str
        What is counted.
    source : str
        Who counts this way.
    unit : str
    before, after : float
    """

    what: str
    source: str
    unit: str
    before: float
    after: float

    @property
    def ratio(self) -> float:
        """How many times smaller; a count of 0 is taken as 1."""
        return self.before / max(self.after, 1)


@dataclass(frozen=True)
class Sizes:
    """The result of `sizes`; print it for tables, `plot` it for a picture.

    Attributes
    ----------
    layers : tuple of LayerSize
    accounts : tuple of Account
    """

    layers: tuple[LayerSize, ...]
    accounts: tuple[Account, ...]

    def __getitem__(self, what: str) -> Account:
        """Return the account with this `what`."""
        return {account.what: account for account in self.accounts}[what]

    def __str__(self) -> str:
        """Return two tables: layers and accounts."""
        form = "{:<12}{:>20}{:>10}{:>9}{:>14}{:>6}".format
        lines = [form("layer", "weights", "kept", "kept %", "live in-out", "bits")]
        for layer in self.layers:
            share, live = f"{100 * layer.kept / layer.weights:.2f}", "-".join(map(str, layer.live))
            shape = " x ".join(map(str, layer.before))
            lines.append(form(layer.name, shape, f"{layer.kept:,}", share, live, layer.bits))
        width = 2 + max(len(account.what) for account in self.accounts)
        lines += ["", f"{'counted':<{width}}{'before':>13}{'after':>13}  {'unit':<9}{'ratio':>8}  as in"]
        for a in self.accounts:
            lines.append(
                f"{a.what:<{width}}{a.before:>13,.0f}{a.after:>13,.0f}  {a.unit:<9}{a.ratio:>7.1f}x  {a.source}"
            )
        return "\n".join(lines)

    def plot(self, title: str = "") -> Figure:
        """Draw the ratios as bars, one per account."""
        from svd_numpy.plots import compression_accounts

        return compression_accounts([(a.what, a.source, a.ratio) for a in self.accounts], title=title)


def sizes(
    network: Sequential | SparseModel, threshold: float | None = None, bits: Mapping[str, int] | None = None
) -> Sizes:
    """Count a network in all the usual ways.

    Parameters
    ----------
    network : Sequential or SparseModel
        A `Sequential` is counted as pruned at the threshold, a `SparseModel` as it is, without the weights that no
        output depends on.
    threshold : float, optional
        On log_alpha; default: the model's. Only for a `Sequential`, as a `SparseModel` is pruned already.
    bits : mapping of array name to int, optional
        Bits per weight by array ("conv1.theta"), such as `posterior_bits`; other arrays are ignored. Default: what the
        weights need as they are, 32 unless they were rounded (`quantise`).

    Returns
    -------
    Sizes

    Raises
    ------
    TypeError, ValueError
        For another kind of network, a network that `compress` or `pack` refuses, or bits for layers that do not exist.
    """
    layers, matrices, small = _counted(network, threshold, bits)
    return Sizes(tuple(layers), tuple(_accounts(layers, matrices, small)))


def layer_sizes(
    network: Sequential | SparseModel, threshold: float | None = None, bits: Mapping[str, int] | None = None
) -> list[LayerSize]:
    """Count the layers of a network as `sizes` does, without the files that it writes to measure them."""
    return _counted(network, threshold, bits)[0]


def _counted(
    network: Sequential | SparseModel, threshold: float | None, bits: Mapping[str, int] | None
) -> tuple[list[LayerSize], list[Array], SparseModel]:
    """Return the layers with weights, their pruned matrices (I, O), and the compact network."""
    if isinstance(network, Sequential):
        threshold = network.threshold if threshold is None else check_threshold("threshold", threshold)
        network = fold_gates(network)
        small = compress(network, threshold, "numpy")
        if not isinstance(small, SparseModel):
            raise SvdTypeError(
                "network: got a recurrent one, whose bytes are counted by compress(network).sizes() only"
            )
        counted = [_of_layer(layer, threshold, small) for layer in network.layers if isinstance(layer, Weighted)]
    elif isinstance(network, SparseModel):
        if threshold is not None:
            raise SvdValueError(f"threshold: got {threshold} for a SparseModel, which is pruned already; leave it out")
        small = network
        counted = [_of_op(op) for op in network.ops if isinstance(op, DenseOp | ConvOp)]
    else:
        raise SvdTypeError(f"network: got a {type(network).__name__}, expected a Sequential or a SparseModel")
    given = {name: value for name, value in (bits or {}).items() if name.endswith(".theta")}
    given = check_bits(given, [f"{layer.name}.theta" for layer, _ in counted])
    layers = [replace(layer, bits=given.get(f"{layer.name}.theta", layer.bits)) for layer, _ in counted]
    return layers, [matrix for _, matrix in counted], small


def _of_layer(layer: Weighted, threshold: float, small: SparseModel) -> tuple[LayerSize, Array]:
    matrix = layer.pruned_theta(threshold)
    left = next((op for op in small.ops if isinstance(op, DenseOp | ConvOp) and op.name == layer.name), None)
    positions = math.prod(layer.window.out) if layer.window is not None else 1
    biases = layer.theta_shape[-1] if layer.has_bias else 0
    live = _live(left) if left is not None else (0, 0)
    kept = int(np.count_nonzero(matrix))
    return LayerSize(layer.name, layer.theta_shape, kept, live, (biases, biases), positions, _bits(matrix)), matrix


def _of_op(op: DenseOp | ConvOp) -> tuple[LayerSize, Array]:
    matrix = op.weights.matrix()
    positions = math.prod(op.window.out) if isinstance(op, ConvOp) else 1
    biases = op.before[-1], len(op.bias)
    return LayerSize(op.name, op.before, op.weights.kept, _live(op), biases, positions, _bits(matrix)), matrix


def _live(op: DenseOp | ConvOp) -> tuple[int, int]:
    inputs = op.window.channels if isinstance(op, ConvOp) else len(op.inputs)
    return inputs, op.weights.shape[1]


def _bits(matrix: Array) -> int:
    """Bits per weight that these weights need without further rounding."""
    step = find_step(matrix)
    if step is None or not matrix.any():
        return _FLOAT
    return min(code_bits(float(np.abs(matrix).max()), 2.0**step), _FLOAT)


def by_layers(layers: Sequence[LayerSize]) -> dict[str, Account]:
    """The accounts that follow from the layers alone, by `what`: no matrix is looked at."""
    weights, kept = sum(layer.weights for layer in layers), sum(layer.kept for layer in layers)
    biases, left = (sum(layer.biases[n] for layer in layers) for n in range(2))
    macs = sum(layer.weights * layer.positions for layer in layers)
    accounts = (
        Account("weights", MOLCHANOV, "weights", weights, kept),
        Account("weights and biases", "the same, with biases", "numbers", weights + biases, kept + left),
        Account("few bits, an index as wide", f"{LOUIZOS}, sparse rows", "bytes", 4 * weights,
                sum(2 * layer.bits * layer.kept for layer in layers) / 8),
        Account("few bits, live sub-matrices", f"{LOUIZOS}, own rows", "bytes", 4 * weights,
                sum(layer.bits * layer.area for layer in layers) / 8),
        Account("multiplications, live sub-matrices", NEKLYUDOV, "MACs", macs,
                sum(layer.area * layer.positions for layer in layers)),
        Account("multiplications, kept weights", "sparse kernels", "MACs", macs,
                sum(layer.kept * layer.positions for layer in layers)),
    )  # fmt: skip
    return {account.what: account for account in accounts}


def _accounts(layers: list[LayerSize], matrices: list[Array], small: SparseModel) -> list[Account]:
    weights, both, wide, area, *macs = by_layers(layers).values()
    plain, dense = weights.before * 4, both.before * 4
    widths = "best gap width per layer"
    return [
        weights,
        both,
        Account("CSR, 32-bit indices", "SciPy", "bytes", plain, sum(csr_bytes(m, 4) for m in matrices)),
        Account("CSR, 16-bit indices", "SciPy's layout, half the index", "bytes", plain,
                sum(csr_bytes(m, 2 if len(m) <= 2**16 else 4) for m in matrices)),
        Account(f"gaps, {widths}", HAN, "bytes", plain,
                sum(min(gap_bits(m, gap, _FLOAT) for gap in range(2, 17)) for m in matrices) / 8),
        Account("gaps, 5 bits dense and 8 convolutional", HAN, "bytes", plain,
                sum(gap_bits(m, 5 if len(layer.before) == 2 else 8, _FLOAT)
                    for layer, m in zip(layers, matrices, strict=True)) / 8),
        Account(f"few bits, {widths}", f"{HAN}, without its codebook", "bytes", plain,
                sum(min(gap_bits(m, gap, layer.bits) for gap in range(2, 17))
                    for layer, m in zip(layers, matrices, strict=True)) / 8),
        wide,
        area,
        Account("zipped CSR arrays", OWN, "bytes", dense, len(zipped(small))),
        Account("packed file", OWN, "bytes", dense, len(pack(small))),
        *macs,
    ]  # fmt: skip


def csr_bytes(matrix: Array, index_bytes: int) -> int:
    """Bytes of a matrix (I, O) in compressed rows, one per output: float32 values, indices, 32-bit row pointers."""
    return int(np.count_nonzero(matrix)) * (4 + index_bytes) + 4 * (matrix.shape[1] + 1)


def gap_bits(matrix: Array, gap: int, value: int) -> int:
    """Bits of a matrix (I, O) as one list of values with `value` bits, each with its distance from the one before.

    A distance has `gap` bits; longer ones are bridged by stored zeros (Han et al. 2016, §2).
    """
    places = np.flatnonzero(matrix.T)
    zeros_before = np.diff(places, prepend=-1) - 1
    padding = int((zeros_before // 2**gap).sum())
    return (len(places) + padding) * (gap + value)


def zipped(small: SparseModel) -> bytes:
    """Return a zip file with the arrays of a compact network, as a plain `np.savez_compressed` writes it."""
    arrays = dict[str, Array]()
    for op in small.ops:
        for name, value in vars(op).items():
            parts = vars(value) if name == "weights" else {name: value}
            arrays |= {f"{op.name}.{key}": part for key, part in parts.items() if isinstance(part, np.ndarray)}
    return npz_bytes(arrays)
