"""What is counted of a finished run for the papers' tables: both compressions, bits, multiplications, live units."""

from __future__ import annotations

from dataclasses import dataclass, replace

from svd_numpy.experiments.published import BLOCKS, PaperRow
from svd_numpy.experiments.result import TrainResult
from svd_numpy.sparse.storage.accounts import by_layers, layer_sizes


@dataclass(frozen=True)
class Counts:
    """Figures of one run; ratios are whole network / what is left.

    Attributes
    ----------
    error : float
        Test error, a fraction.
    nonzeros : float
        By single weights.
    blocks : float
        By dense matrices of live inputs times live outputs.
    bits : tuple of int
        Bits per weight of each layer, by the posterior as it was before the fine-tuning; empty if there was none.
    few_bits : float or None
        32 bits for every weight / those bits for what is left. That is live matrices, or single weights with an index
        as wide as a value, whichever the row counts: so Louizos et al. 2017, table 1, count their own rows and others'.
    macs : float
        By multiplications in the live matrices.
    live : tuple of int
        Live filters of convolutions, live inputs of dense layers.
    seconds : float
    """

    error: float
    nonzeros: float
    blocks: float
    bits: tuple[int, ...]
    few_bits: float | None
    macs: float
    live: tuple[int, ...]
    seconds: float

    def compression(self, row: PaperRow) -> float:
        """The compression as a published row counts it."""
        return self.blocks if row.measure == BLOCKS else self.nonzeros


def count(result: TrainResult, row: PaperRow) -> Counts:
    """Count the network of a run as the tables do in which a row stands."""
    layers = layer_sizes(result.model)
    plain = by_layers([replace(layer, bits=32) for layer in layers])
    # A layer without bits has no weight left.
    bits = tuple(result.bits.get(f"{layer.name}.theta", 0) for layer in layers) if result.bits else ()
    few = by_layers([replace(layer, bits=width) for layer, width in zip(layers, bits, strict=False)])
    what = "few bits, live sub-matrices" if row.measure == BLOCKS else "few bits, an index as wide"
    return Counts(
        error=result.test_error,
        nonzeros=plain["weights"].ratio,
        blocks=plain["few bits, live sub-matrices"].ratio,
        bits=bits,
        few_bits=few[what].ratio if bits else None,
        macs=plain["multiplications, live sub-matrices"].ratio,
        live=tuple(layer.units for layer in layers),
        seconds=result.seconds,
    )
