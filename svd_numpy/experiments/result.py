"""What an experiment returns: the network, its history, and the table beside the paper's row."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from svd_numpy.data import Dataset
from svd_numpy.experiments.recipes import PUBLISHED, PublishedRow, Recipe
from svd_numpy.model import Sequential
from svd_numpy.sparsity import Sparsity, measure_sparsity
from svd_numpy.train import TrainConfig


def pruning_threshold(model: Sequential, config: TrainConfig) -> float:
    """The log_alpha above which weights go: the fine-tuning's own where there is any, else the model's."""
    return config.finetune_threshold if config.finetune_epochs else model.threshold


@dataclass(frozen=True, eq=False)
class TrainResult:
    """Outcome of one training run; `print` it for the table.

    Attributes
    ----------
    model : Sequential
    history : list of dict
        One record per epoch, as in metrics.jsonl.
    report : Sparsity
        Weights kept, per layer.
    test_error : float
        Share of test images the pruned network gets wrong, after the last epoch.
    test_nll : float
        Its negative log-likelihood, nats per image.
    seconds : float
        Training time, without the loading of the data.
    recipe : Recipe
    data : Dataset
    log_alphas : dict of layer name -> array
        log_alpha after the last variational epoch: fine-tuning, where there is any, wipes it out.
    """

    model: Sequential
    history: list[dict[str, Any]]
    recipe: Recipe
    data: Dataset
    log_alphas: dict[str, NDArray[Any]]

    @property
    def report(self) -> Sparsity:
        """Weights kept, per layer, at the model's threshold."""
        return measure_sparsity(self.model)

    @property
    def dataset(self) -> str:
        """Name of the data set it really trained on."""
        return self.data.name

    @property
    def test_error(self) -> float:
        """Share of test images that the pruned network gets wrong."""
        return float(self.history[-1]["test_error"])

    @property
    def test_nll(self) -> float:
        """Nats per test image of the pruned network."""
        return float(self.history[-1]["test_nll"])

    @property
    def compression(self) -> float:
        """All weights / weights kept, without biases."""
        return self.report.compression

    @property
    def layer_sparsity(self) -> dict[str, float]:
        """Share of zeros in each layer."""
        return self.report.by_layer

    @property
    def seconds(self) -> float:
        """Seconds of training."""
        return float(self.history[-1]["seconds"])

    @property
    def published(self) -> PublishedRow | None:
        """The paper's row, where the data set is the paper's."""
        return PUBLISHED.get(self.recipe.arch) if self.dataset == "mnist" else None

    def to_dict(self) -> dict[str, Any]:
        """The figures, JSON-ready."""
        return {
            "arch": self.recipe.arch,
            "recipe": self.recipe.name,
            "dataset": self.dataset,
            "warning": self.data.warning,
            "seed": self.model.seed,
            "backend": self.model.backend.name,
            "n_train": len(self.data.x_train),
            "n_test": len(self.data.x_test),
            "test_error": self.test_error,
            "test_nll": self.test_nll,
            "layer_sparsity": self.layer_sparsity,
            "compression": self.compression,
            "finetuned": self.history[-1]["stage"] == "finetune",
            "epochs": self.history[-1]["epoch"],
            "seconds": self.seconds,
        }

    def __str__(self) -> str:
        sparsity = " - ".join(f"{100 * share:.1f}" for share in self.layer_sparsity.values())
        stage = " (survivors fine-tuned)" if self.history[-1]["stage"] == "finetune" else ""
        lines = [
            f"Sparse VD, {self.recipe.arch} on {self.dataset}, recipe {self.recipe.name!r}, "
            f"seed {self.model.seed}{stage}",
            f"{'':<12}{'error %':>9}{'nll':>9}{'sparsity per layer %':>24}{'compression':>13}{'seconds':>9}",
            f"{'this run':<12}{100 * self.test_error:>9.2f}{self.test_nll:>9.4f}{sparsity:>24}"
            f"{self.compression:>12.1f}x{self.seconds:>9.0f}",
        ]
        if self.published:
            row = self.published
            sparsity = " - ".join(f"{100 * share:.1f}" for share in row.layer_sparsity)
            lines.append(f"{'the paper':<12}{100 * row.error:>9.2f}{'':>9}{sparsity:>24}{row.compression:>12.0f}x")
        if self.data.warning:
            lines.append(f"NOTE: {self.data.warning}")
        return "\n".join(lines)

    def plot(self) -> Any:
        """One figure: error and sparsity over the epochs, receptive fields, histogram of log alpha."""
        from svd_numpy.plots import summary_figure

        first = self.model.variational_layers[0]
        theta, shape = first.fields(first.pruned_theta(self.model.keep), self.data.image_shape or ())
        title = f"{self.recipe.arch} on {self.dataset}: {100 * self.test_error:.2f} % error, {self.compression:.0f}x"
        return summary_figure(
            self.history,
            self.log_alphas,
            theta,
            pruning_threshold(self.model, self.recipe.config),
            shape,
            title,
        )

    def save(self, run_dir: str | Path) -> None:
        """Write model.safetensors, result.json, result.txt and summary.png into `run_dir`."""
        from svd_numpy._files import write_atomic

        folder = Path(run_dir)
        self.model.save(folder / "model.safetensors")
        write_atomic(folder / "result.json", json.dumps(self.to_dict(), indent=1).encode())
        write_atomic(folder / "result.txt", f"{self}\n".encode())
        self.plot().savefig(folder / "summary.png", dpi=100)
