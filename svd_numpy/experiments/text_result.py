"""The result of an experiment on text: the network, its history, and a table."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svd_numpy.checks import as_path, check_choice
from svd_numpy.data import Dataset
from svd_numpy.experiments.architectures import KINDS
from svd_numpy.network.model import Sequential
from svd_numpy.network.sparsity import Sparsity, measure_sparsity

FILES = ("model.safetensors", "result.txt", "summary.png", "result.json")  # the last one says that a run is finished


@dataclass(frozen=True, eq=False)
class TextResult:
    """Outcome of one run of `train_text` or `train_sentiment`; print it.

    Attributes
    ----------
    model : Sequential
    history : list of dict
        One record per epoch, as in metrics.jsonl.
    data : Dataset
    kind : "variational", "dense" or "dropout"
    kl_weight : float
        Factor on the KL schedule.
    """

    model: Sequential
    history: list[dict[str, Any]]
    data: Dataset
    kind: str
    kl_weight: float

    @property
    def of_letters(self) -> bool:
        """Whether letters are predicted, one after the other, rather than what a sentence says."""
        return self.data.lanes > 0

    @property
    def report(self) -> Sparsity:
        """Weights kept, per layer, at the model's threshold."""
        return measure_sparsity(self.model)

    @property
    def test_nll(self) -> float:
        """NLL of the pruned network after the last epoch, in nats per letter or sentence."""
        return float(self.history[-1]["test_nll"])

    @property
    def test_error(self) -> float:
        """Share of test letters or sentences that the pruned network gets wrong, after the last epoch."""
        return float(self.history[-1]["test_error"])

    @property
    def compression(self) -> float:
        """All weights / weights kept, without biases; those of an embedding count."""
        return self.report.compression

    @property
    def best(self) -> dict[str, Any]:
        """The record of the epoch with the lowest validation NLL."""
        return min((r for r in self.history if r["valid_nll"] is not None), key=lambda record: record["valid_nll"])

    def live(self) -> dict[str, tuple[int, int]]:
        """What is left, as (live, all): "words" or "letters", and "units" and "gates" of each recurrent layer."""
        from svd_numpy.sparse.recurrent import count_live

        return count_live(self.model)

    def weights(self) -> dict[str, tuple[int, int]]:
        """Weights that `compress` keeps, as {matrix: (kept, all)}: those of dead units are struck out, too."""
        from svd_numpy.sparse.recurrent import count_weights

        return count_weights(self.model)

    def words(self) -> list[str]:
        """The words (letters) of which at least one weight is left, those with the largest weights first."""
        from svd_numpy.sparse.recurrent import live_tokens

        return [self.data.vocabulary[token] for token in live_tokens(self.model)]

    def to_dict(self) -> dict[str, Any]:
        """The figures, JSON-ready."""
        report, best = self.report, self.best
        return {
            "dataset": self.data.name,
            "warning": self.data.warning,
            "kind": self.kind,
            "kl_weight": self.kl_weight,
            "seed": self.model.seed,
            "backend": self.model.backend.name,
            "layers": [layer.config() | {"in_features": None, "vocabulary": None} for layer in self.model.layers],
            "test_nll": self.test_nll,
            "test_error": self.test_error,
            "valid_nll": self.history[-1]["valid_nll"],
            "best_epoch": best["epoch"],
            "best_valid_nll": best["valid_nll"],
            "best_test_nll": best["test_nll"],
            "best_test_error": best["test_error"],
            "layer_sparsity": report.by_layer,
            "compression": report.compression,
            "weights": {name: list(counts) for name, counts in self.weights().items()},
            "live": {name: list(counts) for name, counts in self.live().items()},
            "epochs": self.history[-1]["epoch"],
            "seconds": self.history[-1]["seconds"],
        }

    def _scores(self, record: dict[str, Any]) -> str:
        nll, unit = record["test_nll"], "letter" if self.of_letters else "sentence"
        bits = f", {nll / math.log(2):.3f} bits" if self.of_letters else ""
        return f"{nll:.4f} nats per {unit}{bits}, {100 * record['test_error']:.2f} % wrong"

    def __str__(self) -> str:
        weight = f", KL weight {self.kl_weight:g}" if self.kl_weight != 1 else ""
        last, best = self.history[-1], self.best
        lines = [
            f"{KINDS[self.kind]} on {self.data.name}{weight}, seed {self.model.seed}, {last['epoch']} epochs, "
            f"{last['seconds']:.0f} s",
            f"test, last epoch       {self._scores(last)}",
            f"test, best epoch {best['epoch']:>4}  {self._scores(best)} (chosen by validation)",
        ]
        if self.kind == "variational":
            report = self.report
            kept, total = sum(report.kept.values()), sum(report.total.values())
            shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in report.by_layer.items())
            small = sum(count for count, _ in self.weights().values())
            left = ", ".join(f"{live} of {total} {name}" for name, (live, total) in self.live().items())
            lines += [
                f"{kept:,} of {total:,} weights left ({report.compression:.1f}x); zeros: {shares}",
                f"{small:,} without those of dead units ({total / max(small, 1):.1f}x)",
                f"left: {left}",
            ]
        return "\n".join([*lines, *([f"NOTE: {self.data.warning}"] if self.data.warning else [])])

    def __repr__(self) -> str:
        if not self.history:
            return f"<TextResult: {KINDS[self.kind]} on {self.data.name}, not trained>"
        return (
            f"<TextResult: {KINDS[self.kind]} on {self.data.name}, {self.test_nll:.3f} nats, {self.compression:.1f}x>"
        )

    def plot(self, what: str = "summary") -> Any:
        """Draw one figure.

        Parameters
        ----------
        what : str
            "summary": NLL and error, KL, sparsity by layer, compression, over the epochs.
            "losses": training and validation NLL over the epochs (`svd_numpy.plots.loss_curves` draws several runs).
            Of a sparse network also "left": weights by matrix, words, units and gates; "gates_LAYER": which gates of a
            recurrent layer are constants; "words": those of a network that judges sentences, by what they say.

        Returns
        -------
        Figure

        Raises
        ------
        SvdValueError
            If this network has no such figure.
        """
        from svd_numpy.experiments.text_figures import text_figures
        from svd_numpy.plots import training_curves

        if what == "summary":
            return training_curves(self.history, title=repr(self)[1:-1])
        figures = text_figures(self.model, self.history)
        check_choice("what", what, ("summary", *figures))
        return figures[what]()

    def save(self, run_dir: str | Path) -> None:
        """Write model.safetensors, result.txt, summary.png and result.json to the folder `run_dir`, all together."""
        from svd_numpy.files.atomic import replacing, write_atomic
        from svd_numpy.plots.picture import try_to_draw

        with replacing(as_path("run_dir", run_dir), FILES) as folder:
            self.model.save(folder / "model.safetensors")
            write_atomic(folder / "result.txt", f"{self}\n".encode())
            write_atomic(folder / "result.json", json.dumps(self.to_dict(), indent=1).encode())
            try_to_draw(self.plot, folder / "summary.png")
