"""`measure_uncertainty`: how well a trained network knows what it does not know, on familiar and on foreign images."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from svd_numpy.assess.uncertainty import Calibration, Uncertainty, auroc, calibration, decompose, sample_probabilities
from svd_numpy.checks import SvdValueError, as_path, check_count, check_type
from svd_numpy.data import Dataset
from svd_numpy.experiments.run_files import need
from svd_numpy.files.atomic import replacing, write_atomic
from svd_numpy.network.model import Sequential
from svd_numpy.network.sparsity import measure_sparsity
from svd_numpy.plots.picture import try_to_draw

METHODS = {
    "pruned": "pruned network, one prediction",
    "survivors": "pruned network, survivors sampled",
    "posterior": "all weights sampled",
}


@dataclass(frozen=True, eq=False)
class UncertaintyRow:
    """One way to predict.

    Attributes
    ----------
    error, nll : float
        Share of wrong predictions and nats per example of the averaged probabilities, on the test set.
    calibration : Calibration
    inside, outside : Uncertainty
        That of the test images, and of the foreign images.
    """

    error: float
    nll: float
    calibration: Calibration
    inside: Uncertainty
    outside: Uncertainty

    def to_dict(self) -> dict[str, float]:
        """The figures, JSON-ready."""
        figures = {"error": self.error, "nll": self.nll, "ece": self.calibration.error}
        for part in ("total", "data", "knowledge"):
            inside, outside = getattr(self.inside, part), getattr(self.outside, part)
            figures |= {f"{part}_inside": float(inside.mean()), f"{part}_outside": float(outside.mean())}
            figures[f"auroc_{part}"] = auroc(inside, outside)
        return figures


@dataclass(frozen=True, eq=False)
class UncertaintyReport:
    """What `measure_uncertainty` found; `print` shows it as a table.

    Attributes
    ----------
    rows : dict of method -> UncertaintyRow
        See `METHODS`.
    inside, outside : str
        Names of the data sets.
    n : int
        Number of networks drawn.
    sparsity : float
        Share of weights pruned.
    """

    rows: dict[str, UncertaintyRow]
    inside: str
    outside: str
    n: int
    sparsity: float

    def to_dict(self) -> dict[str, Any]:
        """The figures, JSON-ready."""
        facts = {"inside": self.inside, "outside": self.outside, "n": self.n, "sparsity": self.sparsity}
        return {**facts, "methods": {name: row.to_dict() for name, row in self.rows.items()}}

    def __str__(self) -> str:
        lines = [
            f"Uncertainty on {self.inside}, {self.n} networks drawn, {100 * self.sparsity:.1f} % of weights pruned; "
            f"foreign images: {self.outside}",
            f"{'':<36}{'error %':>8}{'nll':>9}{'ECE %':>8}   AUROC of {'entropy':>9}{'knowledge':>11}",
        ]
        for name, row in self.rows.items():
            figures = row.to_dict()
            knowledge = "" if name == "pruned" else f"{figures['auroc_knowledge']:.4f}"
            lines.append(
                f"{METHODS[name]:<36}{100 * row.error:>8.2f}{row.nll:>9.4f}{100 * figures['ece']:>8.2f}"
                f"{'':>12}{figures['auroc_total']:>9.4f}{knowledge:>11}"
            )
        return "\n".join(lines)

    def plot(self) -> Any:
        """Draw the reliability of each method, and predictive entropies of familiar and foreign images; a Figure."""
        from svd_numpy.plots.evaluation import uncertainty_figure

        reliability, entropies = {}, {}
        for name, row in self.rows.items():
            measured = row.calibration
            title = f"{METHODS[name]}\nECE {100 * measured.error:.2f} %"
            reliability[title] = measured.edges, measured.confidence, measured.accuracy
            entropies[title] = row.inside.total, row.outside.total
        return uncertainty_figure(reliability, entropies, self.inside, self.outside)

    def save(self, folder: str | Path) -> None:
        """Write uncertainty.json, uncertainty.txt and uncertainty.png into `folder`."""
        names = [f"uncertainty.{kind}" for kind in ("png", "txt", "json")]
        with replacing(as_path("folder", folder), names) as beside:
            write_atomic(beside / "uncertainty.json", json.dumps(self.to_dict(), indent=1).encode())
            write_atomic(beside / "uncertainty.txt", f"{self}\n".encode())
            try_to_draw(self.plot, beside / "uncertainty.png")


def measure_uncertainty(
    model: Sequential | str | Path, *, inside: Dataset, outside: Dataset, n: int = 100
) -> UncertaintyReport:
    """Measure calibration, and whether the network notices images of another kind.

    Parameters
    ----------
    model : Sequential or path
        A classifier that still has its noise (trained without fine-tuning), or the folder of such a run.
    inside : Dataset
        What it was trained on; its test rows are predicted.
    outside : Dataset
        Another one with inputs of the same shape; its test rows are predicted, too, but their labels are not used.
    n : int
        Number of networks to draw.

    Returns
    -------
    UncertaintyReport

    Raises
    ------
    SvdValueError, SvdTypeError
        For a network without noise, or data that do not fit it.
    """
    if isinstance(model, str | Path):
        model = Sequential.load(need(as_path("model", model) / "model.safetensors"))
    check_type("model", model, Sequential)
    for name, data in (("inside", inside), ("outside", outside)):
        check_type(name, data, Dataset)
    if inside.x_test.shape[1] != outside.x_test.shape[1]:
        raise SvdValueError(
            f"outside: got {outside.x_test.shape[1]} inputs of {outside.name!r}, "
            f"expected {inside.x_test.shape[1]} as in {inside.name!r}"
        )
    n = check_count("n", n, low=2)
    rows = {}
    for method in ("posterior", "survivors", "pruned"):  # the first one refuses a network without noise
        parts = []
        for x in (inside.x_test, outside.x_test):
            if method == "pruned":
                probabilities = model.predict_proba(x)[None]
            else:
                probabilities = sample_probabilities(model, x, n, survivors_only=method == "survivors")
            parts.append(decompose(probabilities))
        mean = parts[0].mean
        labels = model.check_targets(inside.y_test, len(mean))
        likelihood = np.maximum(mean[np.arange(len(mean)), labels], np.finfo(np.float64).tiny)
        wrong = mean.argmax(axis=1) != labels
        rows[method] = UncertaintyRow(
            float(wrong.mean()), float(-np.log(likelihood).mean()), calibration(mean, labels), *parts
        )
    ordered = {method: rows[method] for method in METHODS}
    return UncertaintyReport(ordered, inside.name, outside.name, n, measure_sparsity(model).overall)
