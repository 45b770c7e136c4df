"""The result of an experiment on images: the network, its history, and a table that includes the paper's row."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from svd_numpy.checks import as_path, check_choice
from svd_numpy.data import Dataset
from svd_numpy.experiments.architectures import KINDS
from svd_numpy.experiments.recipes import PUBLISHED, PublishedRow, Recipe
from svd_numpy.network.model import Sequential
from svd_numpy.network.sparsity import Sparsity, measure_sparsity
from svd_numpy.train.config import TrainConfig

FILES = ("model.safetensors", "result.txt", "summary.png", "result.json")  # the last one says that a run is finished


def pruning_threshold(model: Sequential, config: TrainConfig) -> float:
    """The log_alpha above which weights are pruned: that of the fine-tuning if there is any, else the model's."""
    return config.finetune_threshold if config.finetune_epochs else model.threshold


@dataclass(frozen=True, eq=False)
class TrainResult:
    """Outcome of one training run; `print` shows it as a table.

    Attributes
    ----------
    model : Sequential
    history : list of dict
        One record per epoch, as in metrics.jsonl.
    report : Sparsity
        Weights kept, per layer.
    test_error : float
        Share of test images that the pruned network gets wrong, after the last epoch.
    test_nll : float
        Its negative log-likelihood, nats per image.
    seconds : float
        Training time, without loading the data.
    recipe : Recipe
    data : Dataset
    log_alphas : dict of layer name -> array
        log_alpha after the last variational epoch, before any fine-tuning overwrites it.
    kind : "variational", "dense" or "dropout"
        Sparse VD, or one of the baseline networks, which prune nothing.
    width : float
        Factor on the numbers of units and filters of the architecture.
    pretrained : TrainResult or None
        The first stage of the same run, if there was one: this network started from its weights.
    init_from : bool
        Whether it started from given weights, which are not stored.
    kl_weight : float
        Factor on the KL schedule of the recipe.
    """

    model: Sequential
    history: list[dict[str, Any]]
    recipe: Recipe
    data: Dataset
    log_alphas: dict[str, NDArray[Any]]
    kind: str = "variational"
    width: float = 1.0
    pretrained: TrainResult | None = None
    init_from: bool = False
    kl_weight: float = 1.0

    @property
    def report(self) -> Sparsity:
        """Weights kept, per layer, at the model's threshold."""
        return measure_sparsity(self.model)

    @property
    def dataset(self) -> str:
        """Name of the data set that it was actually trained on ("auto" is resolved)."""
        return self.data.name

    @property
    def test_error(self) -> float:
        """Share of test images that the pruned network gets wrong."""
        return float(self.history[-1]["test_error"])

    @property
    def test_nll(self) -> float:
        """NLL of the pruned network, in nats per test image."""
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
        """The paper's row, if network and data set are the paper's."""
        comparable = self.kind == "variational" and self.width == 1 and self.dataset == "mnist"
        return PUBLISHED.get(self.recipe.arch) if comparable else None

    def to_dict(self) -> dict[str, Any]:
        """The figures, JSON-ready."""
        report = self.report
        return {
            "arch": self.recipe.arch,
            "width": self.width,
            "kind": self.kind,
            "recipe": self.recipe.name,
            "kl_weight": self.kl_weight,
            "dataset": self.dataset,
            "warning": self.data.warning,
            "seed": self.model.seed,
            "init_from": self.init_from,
            "backend": self.model.backend.name,
            "n_train": len(self.data.x_train),
            "n_test": len(self.data.x_test),
            "train_error": self.history[-1]["train_error"],
            "test_error": self.test_error,
            "test_nll": self.test_nll,
            "pretrained_test_error": self.pretrained.test_error if self.pretrained else None,
            "layer_sparsity": report.by_layer,
            "live_units": {name: list(counts) for name, counts in report.live.items()},
            "compression": report.compression,
            "finetuned": self.history[-1]["stage"] == "finetune",
            "epochs": self.history[-1]["epoch"],
            "seconds": self.seconds,
        }

    @property
    def title(self) -> str:
        """What was trained on what."""
        width = f" of width {self.width:g}" if self.width != 1 else ""
        kl_weight = f", KL weight {self.kl_weight:g}" if self.kl_weight != 1 else ""
        return f"{KINDS[self.kind]}, {self.recipe.arch}{width} on {self.dataset}{kl_weight}"

    def __str__(self) -> str:
        report = self.report
        rows: list[tuple[str, float, float | None, str, str, float | None]]
        rows = [("this run", self.test_error, self.test_nll, *_cells(self))]
        if self.pretrained:
            before = self.pretrained
            rows.append(("pre-trained", before.test_error, before.test_nll, *_cells(before)))
        if row := self.published:
            rows.append(("the paper", row.error, None, _shares(row.layer_sparsity), f"{row.compression:.0f}x", None))
        column = max(24, *(2 + len(row[3]) for row in rows))
        stage = " (survivors fine-tuned)" if self.history[-1]["stage"] == "finetune" else ""
        lines = [
            f"{self.title}, recipe {self.recipe.name!r}, seed {self.model.seed}{stage}",
            f"{'':<12}{'error %':>9}{'nll':>9}{'sparsity per layer %':>{column}}{'compression':>13}{'seconds':>9}",
        ]
        for name, error, nll, sparsity, compression, seconds in rows:
            figures = f"{'' if nll is None else f'{nll:.4f}':>9}{sparsity:>{column}}{compression:>13}"
            lines.append(f"{name:<12}{100 * error:>9.2f}{figures}{'' if seconds is None else f'{seconds:>9.0f}'}")
        if self.kind == "variational":
            lines.append(f"{'live units':<12}" + " - ".join(f"{live}/{units}" for live, units in report.live.values()))
        if self.data.warning:
            n_test, train_error = len(self.data.x_test), self.history[-1]["train_error"]
            lines.append(f"NOTE: {self.data.warning}")
            lines.append(
                f"Measured on {n_test:,} test images. Training error in the last epoch: {100 * train_error:.2f} %."
            )
        return "\n".join(lines)

    def plot(self, what: str = "summary") -> Any:
        """Draw one figure.

        Parameters
        ----------
        what : str
            "summary": error and sparsity over the epochs, receptive fields, histogram of log alpha; only the curves
            for a network that prunes nothing.
            "live_units": what is left of each layer.
            "filters", "weight_matrix", "feature_maps": before and after training, the filters of the first layer, a
            part of the largest dense matrix, and the response of the first convolutions to the first test image.

        Returns
        -------
        Figure

        Raises
        ------
        SvdValueError
            If this network has no such figure. A network that prunes nothing has only the summary, one without
            convolutions has no feature maps, and one that started from `init_from` has none from before training.
        """
        if what == "summary":
            return self._summary()
        figures = self._network_figures()
        check_choice("what", what, ("summary", *figures))
        return figures[what]()

    def _summary(self) -> Any:
        from svd_numpy.plots import summary_figure, training_curves

        title = f"{self.title}: {100 * self.test_error:.2f} % error"
        if not self.model.variational_layers:
            return training_curves(self.history, title=title)
        first = self.model.variational_layers[0]
        theta, shape = first.fields(first.pruned_theta(self.model.threshold), self.data.image_shape or ())
        return summary_figure(
            self.history,
            self.log_alphas,
            theta,
            pruning_threshold(self.model, self.recipe.config),
            shape,
            f"{title}, {self.compression:.0f}x",
            "hidden units" if first.window is None else "filters",
        )

    def _network_figures(self) -> dict[str, Any]:
        from svd_numpy.plots.figures import at_start, network_figures

        if not self.model.variational_layers:
            return {}
        before = self.pretrained.model if self.pretrained else None
        start = None if self.init_from else at_start(self.model, before)
        threshold = pruning_threshold(self.model, self.recipe.config)
        shape = self.data.image_shape or ()
        return network_figures(self.model, start, self.log_alphas, threshold, shape, self.data.x_test[0])

    def save(self, run_dir: str | Path) -> None:
        """Write model.safetensors, result.txt, summary.png and result.json to the folder `run_dir`.

        They replace those of an older result together. A summary that cannot be drawn is left out, with a warning.
        """
        from svd_numpy.files.atomic import replacing, write_atomic
        from svd_numpy.plots.picture import try_to_draw

        with replacing(as_path("run_dir", run_dir), FILES) as folder:
            self.model.save(folder / "model.safetensors")
            write_atomic(folder / "result.txt", f"{self}\n".encode())
            write_atomic(folder / "result.json", json.dumps(self.to_dict(), indent=1).encode())
            try_to_draw(self.plot, folder / "summary.png")


def _cells(result: TrainResult) -> tuple[str, str, float]:
    """Sparsity, compression and seconds of a row of the table."""
    return _shares(result.layer_sparsity.values()), f"{result.compression:.1f}x", result.seconds


def _shares(sparsity: Iterable[float]) -> str:
    return " - ".join(f"{100 * share:.1f}" for share in sparsity)
