"""The result of an experiment on images: the network, its history, and a table that includes the paper's row."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from svd_numpy.checks import as_path, check_choice
from svd_numpy.data import Dataset
from svd_numpy.experiments.architectures import KINDS
from svd_numpy.experiments.methods import DEFAULT, METHODS
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
    """Outcome of one training run; `print` shows it as a table, a notebook with its picture.

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
    bits : dict of array name -> int
        Bits per weight that the posterior asked for then (`posterior_bits`); empty if there was none.
    method : str
        How the network was made small, a key of `methods.METHODS`.
    kind : str
        Kind of its layers, a key of `architectures.KINDS`.
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
    bits: dict[str, int] = field(default_factory=dict)
    method: str = DEFAULT
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
    def _is_sparse_vd(self) -> bool:
        return self.method == DEFAULT and self.kind == "variational"

    @property
    def published(self) -> PublishedRow | None:
        """The paper's row, if network and data set are the paper's."""
        comparable = self._is_sparse_vd and self.width == 1 and self.dataset == "mnist"
        return PUBLISHED.get(self.recipe.arch) if comparable else None

    def to_dict(self) -> dict[str, Any]:
        """The figures, JSON-ready."""
        report = self.report
        return {
            "arch": self.recipe.arch,
            "width": self.width,
            "method": self.method,
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
            "bits": self.bits,
            "finetuned": self.history[-1]["stage"] == "finetune",
            "epochs": self.history[-1]["epoch"],
            "seconds": self.seconds,
        }

    @property
    def title(self) -> str:
        """What was trained on what."""
        width = f" of width {self.width:g}" if self.width != 1 else ""
        kl_weight = f", KL weight {self.kl_weight:g}" if self.kl_weight != 1 else ""
        name = KINDS[self.kind] if self.method == DEFAULT else METHODS[self.method].title
        return f"{name}, {self.recipe.arch}{width} on {self.dataset}{kl_weight}"

    def _rows(self) -> list[tuple[str, ...]]:
        """The cells of the table, row by row: name, error, NLL, sparsity, compression, seconds."""

        def row(name: str, result: TrainResult) -> tuple[str, ...]:
            sparsity, compression = _shares(result.layer_sparsity.values()), f"{result.compression:.1f}x"
            error, nll = f"{100 * result.test_error:.2f}", f"{result.test_nll:.4f}"
            return name, error, nll, sparsity, compression, f"{result.seconds:.0f}"

        rows = [("", "error %", "nll", "sparsity per layer %", "compression", "seconds"), row("this run", self)]
        if self.pretrained:
            rows.append(row("pre-trained", self.pretrained))
        if paper := self.published:
            sparsity, compression = _shares(paper.layer_sparsity), f"{paper.compression:.0f}x"
            rows.append(("the paper", f"{100 * paper.error:.2f}", "", sparsity, compression, ""))
        return rows

    def _heading(self) -> str:
        stage = " (survivors fine-tuned)" if self.history[-1]["stage"] == "finetune" else ""
        return f"{self.title}, recipe {self.recipe.name!r}, seed {self.model.seed}{stage}"

    def _remarks(self) -> list[str]:
        """What stands below the table."""
        lines = list[str]()
        if self.kind == "variational" or METHODS[self.method].gated or self.compression > 1:
            live = " - ".join(f"{live}/{units}" for live, units in self.report.live.values())
            lines.append(f"{'live units':<12}{live}")
        if self.data.warning:
            n_test, train_error = len(self.data.x_test), self.history[-1]["train_error"]
            lines.append(f"NOTE: {self.data.warning}")
            lines.append(
                f"Measured on {n_test:,} test images. Training error in the last epoch: {100 * train_error:.2f} %."
            )
        return lines

    def __str__(self) -> str:
        rows = self._rows()
        column = max(24, *(2 + len(row[3]) for row in rows[1:]))
        lines = [
            f"{name:<12}{error:>9}{nll:>9}{sparsity:>{column}}{compression:>13}{seconds:>9}".rstrip()
            for name, error, nll, sparsity, compression, seconds in rows
        ]
        return "\n".join([self._heading(), *lines, *self._remarks()])

    def __repr__(self) -> str:
        if not self.history:
            return f"<TrainResult: {self.title}, not trained>"
        return f"<TrainResult: {self.title}, {100 * self.test_error:.2f} % error, {self.compression:.1f}x>"

    def _repr_html_(self) -> str:
        """What a notebook shows: the table, and the summary as a small picture."""
        if not self.history:
            return html.escape(repr(self))
        picture = io.BytesIO()
        self.plot().savefig(picture, format="jpeg", dpi=60, pil_kwargs={"quality": 85})
        body = "".join(
            "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>"
            for tag, row in zip(["th", *["td"] * 3], self._rows(), strict=False)
        )
        remarks = "".join(f"<p>{html.escape(line)}</p>" for line in self._remarks())
        image = base64.b64encode(picture.getvalue()).decode()
        return (
            f"<p>{html.escape(self._heading())}</p><table>{body}</table>{remarks}"
            f'<img alt="error, sparsity, receptive fields and log alpha" src="data:image/jpeg;base64,{image}">'
        )

    def plot(self, what: str = "summary") -> Any:
        """Draw one figure.

        Parameters
        ----------
        what : str
            "summary": error and sparsity over the epochs, receptive fields, histogram of log alpha; only the curves
            for a network that prunes nothing.
            "living": weights that have not been removed, and milliseconds per step, over the epochs.
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
            pruned = f", {self.compression:.0f}x" if self.compression > 1 else ""
            return training_curves(self.history, title=title + pruned)
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
        from svd_numpy.plots import living_weights
        from svd_numpy.plots.figures import at_start, network_figures

        if not self.model.variational_layers:
            return {}
        before = self.pretrained.model if self.pretrained else None
        start = None if self.init_from else at_start(self.model, before)
        threshold = pruning_threshold(self.model, self.recipe.config)
        shape = self.data.image_shape or ()
        figures = network_figures(self.model, start, self.log_alphas, threshold, shape, self.data.x_test[0])
        return {"living": lambda: living_weights(self.history, title=self.title), **figures}

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


def _shares(sparsity: Iterable[float]) -> str:
    return " - ".join(f"{100 * share:.1f}" for share in sparsity)
