"""The rows of the papers' tables, and baselines that belong beside them, for `reproduce`."""

from __future__ import annotations

from dataclasses import dataclass

NONZEROS, BLOCKS = "non-zeros", "sub-matrices"  # what is counted as left


@dataclass(frozen=True)
class PaperRow:
    """One published result, on MNIST, or on CIFAR-10 for vgg-like; or a baseline of which none was published there.

    Attributes
    ----------
    name : str
        What `reproduce` calls it: network and method.
    arch, method : str
        Arguments of `train_mnist` or `train_cifar`; a method or network that this package lacks is only listed.
    error : float, optional
        Test error, a fraction; None: not published.
    compression : float, optional
        All weights / those left.
    measure : "non-zeros" or "sub-matrices"
        What is left: single weights, or dense matrices of live inputs times live outputs. The two are not comparable.
    source : str
    left : str
        Sparsity per layer in %, or live units: filters of convolutions, inputs of dense layers.
    bits : tuple of int
        Bits per weight of each layer, where the paper has them.
    few_bits : float, optional
        32 bits for all weights / those bits for what is left.
    macs : float, optional
        All multiplications / those left, where the paper has them.
    sparsity : float, optional
        Argument of `train_mnist`, where the method must be told.
    """

    name: str
    arch: str
    method: str
    error: float | None
    compression: float | None
    measure: str
    source: str
    left: str = ""
    bits: tuple[int, ...] = ()
    few_bits: float | None = None
    macs: float | None = None
    sparsity: float | None = None

    @property
    def experiment(self) -> str:
        """Which experiment trains it, a key of `sweep.task.EXPERIMENTS`."""
        return "cifar" if self.arch == "vgg-like" else "mnist"


_FC, _CONV = "lenet-300-100", "lenet-5"
_SVD, _BC, _L0 = "Molchanov et al. 2017, table 1", "Louizos et al. 2017, table 1", "Louizos et al. 2018, table 1"
_SBP = "Neklyudov et al. 2017, table 1"
_AT_12 = 1 - 1 / 12  # the sparsity at which Han et al. 2015 stop

ROWS = {
    row.name: row
    for row in (
        PaperRow("300-100 dense", _FC, "dense", 0.0164, 1, NONZEROS, _SVD),
        PaperRow("300-100 magnitude", _FC, "magnitude", 0.0159, 12, NONZEROS, _SVD, "92.0-91.0-74.0", sparsity=_AT_12),
        PaperRow("300-100 surgery", _FC, "surgery", 0.0199, 56, NONZEROS, _SVD, "98.2-98.2-94.5"),
        PaperRow("300-100 weight-sharing", _FC, "weight-sharing", 0.0194, 23, NONZEROS, _SVD),
        PaperRow("300-100 sparse-vd", _FC, "sparse-vd", 0.0192, 68, NONZEROS, _SVD, "98.9-97.2-62.0"),
        PaperRow("300-100 bc-gnj", _FC, "bc-gnj", 0.018, 9.29, BLOCKS, _BC, "278-98-13", (8, 9, 14), 36),
        PaperRow("300-100 bc-ghs", _FC, "bc-ghs", 0.018, 9.48, BLOCKS, _BC, "311-86-14", (13, 11, 10), 23),
        PaperRow("300-100 l0", _FC, "l0", 0.018, 9.99, BLOCKS, _L0, "266-88-33"),
        PaperRow("500-300 sbp", "lenet-500-300", "sbp", 0.0155, 11.23, BLOCKS, _SBP, "245-160-55", macs=11.23),
        PaperRow("lenet-5 dense", _CONV, "dense", 0.0080, 1, NONZEROS, _SVD),
        PaperRow("lenet-5 magnitude", _CONV, "magnitude", 0.0077, 12, NONZEROS, _SVD, "34-88-92.0-81", sparsity=_AT_12),
        PaperRow("lenet-5 surgery", _CONV, "surgery", 0.0091, 111, NONZEROS, _SVD, "86-97-99.3-96"),
        PaperRow("lenet-5 weight-sharing", _CONV, "weight-sharing", 0.0097, 200, NONZEROS, _SVD),
        PaperRow("lenet-5 sparse-vd", _CONV, "sparse-vd", 0.0075, 280, NONZEROS, _SVD, "67-98-99.8-95"),
        PaperRow("lenet-5 bc-gnj", _CONV, "bc-gnj", 0.010, 108, BLOCKS, _BC, "8-13-88-13", (18, 10, 7, 9), 361),
        PaperRow("lenet-5 bc-ghs", _CONV, "bc-ghs", 0.010, 156, BLOCKS, _BC, "5-10-76-16", (10, 10, 14, 13), 419),
        PaperRow("lenet-5 sbp", _CONV, "sbp", 0.0086, 5.09, BLOCKS, _SBP, "3-18-284-283", macs=10.49),
        PaperRow("lenet-5 l0", _CONV, "l0", 0.010, 70.0, BLOCKS, _L0, "9-18-65-25"),
        PaperRow(
            "vgg-like bc-gnj", "vgg-like", "bc-gnj", 0.086, 14, BLOCKS, _BC,
            "63-64-128-128-245-155-63-26-24-20-14-12-11-11-15", (10,) * 4 + (8,) * 3 + (5,) * 5 + (6, 7, 11), 56,
        ),
        PaperRow(
            "vgg-like bc-ghs", "vgg-like", "bc-ghs", 0.090, 18, BLOCKS, _BC,
            "51-62-125-128-228-129-38-13-9-6-5-6-6-6-20", (11, 12, 9, 14, 10, 8, 5, 5, 6, 6, 6, 8, 11, 17, 10), 59,
        ),
    )
}  # fmt: skip

# Baselines that later papers ask for, and a method of today, at the compression that was published for Sparse VD, and,
# where it is far from that, at the one that its default recipe reaches here.
_BASELINES = {
    "gradual-magnitude": "asked for by Gale et al. 2019",
    "magnitude-rewind": "asked for by Renda et al. 2020",
    "ivon": "method of Shen et al. 2024",
}
ROWS |= {
    f"{network} {method}{ours}": PaperRow(
        f"{network} {method}{ours}", arch, method, None, None, NONZEROS, source, sparsity=1 - 1 / compression
    )
    for network, arch, compression, ours in (
        ("300-100", _FC, 68, ""),
        ("300-100", _FC, 107, " 107x"),
        ("lenet-5", _CONV, 280, ""),
    )
    for method, source in _BASELINES.items()
}
