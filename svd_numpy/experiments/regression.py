"""`train_regression`: a small network on a small table, with the test error in the units of the target.

Boston housing with 13-150-1 is the usual example of Sparse VD for regression. Its best-known figures come from one
unseeded split of raw columns, with a test error that includes the noise of training. Here columns and target are
standardised on the training rows, the split is seeded, the pruned network predicts the test rows, and the noise of the
target is estimated. The default is the diabetes table, which does not have Boston's ethical problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svd_numpy.checks import SvdValueError, check_choice, check_count, check_flag
from svd_numpy.data import Dataset, load
from svd_numpy.experiments.architectures import KINDS
from svd_numpy.experiments.options import check_kl_weight
from svd_numpy.network.model import Sequential
from svd_numpy.network.objective import Gaussian
from svd_numpy.network.scoring import evaluate
from svd_numpy.network.sparsity import measure_sparsity
from svd_numpy.tabular.networks import estimate_noise, make_config, make_network, used_inputs
from svd_numpy.train.console import say
from svd_numpy.train.loop import fit

_KINDS = ("variational", "dense")
_TEST_SHARE = 5  # one row in five is for testing, as in the published example


@dataclass(frozen=True, eq=False)
class RegressionResult:
    """Outcome of one run; `print` it.

    Attributes
    ----------
    model : Sequential
        Takes standardised inputs and predicts standardised targets.
    history : list of dict
        One record per epoch, as in metrics.jsonl.
    data : Dataset
        The standardised rows of this seed's split.
    kind : "variational" or "dense"
    kl_weight : float
        Factor on the KL schedule.
    target_std : float
        Standard deviation of the training targets, in their units.
    """

    model: Sequential
    history: list[dict[str, Any]]
    data: Dataset
    kind: str
    kl_weight: float
    target_std: float

    @property
    def test_rmse(self) -> float:
        """Root mean squared error on the test rows, in the units of the target."""
        return self._rmse(self.data.x_test, self.data.y_test)

    @property
    def train_rmse(self) -> float:
        """The same on the training rows."""
        return self._rmse(self.data.x_train, self.data.y_train)

    def _rmse(self, x: NDArray[Any], y: NDArray[Any]) -> float:
        return self.target_std * float(np.sqrt(evaluate(self.model, x, y)["error"]))

    @property
    def noise_std(self) -> float:
        """Estimated std of the target's noise, in its units."""
        assert isinstance(self.model.likelihood, Gaussian)
        return self.target_std * self.model.likelihood.std

    @property
    def weights(self) -> tuple[int, int]:
        """Weights kept, and all weights, without biases."""
        total = sum(array.size for name, array in self.model.parameters.items() if name.endswith(".theta"))
        if self.kind == "dense":
            return total, total
        return sum(measure_sparsity(self.model).kept.values()), total

    @property
    def used(self) -> NDArray[np.bool_]:
        """Whether each input still reaches the output: array (I,)."""
        return used_inputs(self.model)

    def to_dict(self) -> dict[str, Any]:
        """The figures, JSON-ready."""
        kept, total = self.weights
        return {
            "dataset": self.data.name,
            "warning": self.data.warning,
            "kind": self.kind,
            "kl_weight": self.kl_weight,
            "seed": self.model.seed,
            "n_train": len(self.data.x_train),
            "n_test": len(self.data.x_test),
            "test_rmse": self.test_rmse,
            "train_rmse": self.train_rmse,
            "noise_std": self.noise_std,
            "sparsity": 1 - kept / total,
            "weights_kept": kept,
            "inputs_used": int(self.used.sum()),
            "epochs": self.history[-1]["epoch"],
            "seconds": self.history[-1]["seconds"],
        }

    def __repr__(self) -> str:
        return f"<RegressionResult: {KINDS[self.kind]} on {self.data.name}, RMSE {self.test_rmse:.3f}>"

    def __str__(self) -> str:
        weight = f", KL weight {self.kl_weight:g}" if self.kind == "variational" else ""
        lines = [
            f"{KINDS[self.kind]} on {self.data.name}{weight}, seed {self.model.seed}",
            f"RMSE {self.test_rmse:.3f} on {len(self.data.x_test)} test rows, {self.train_rmse:.3f} on "
            f"{len(self.data.x_train)} training rows; noise estimated at {self.noise_std:.3f}",
        ]
        if self.kind == "variational":
            kept, total = self.weights
            lines.append(f"{kept:,} of {total:,} weights kept, {self.used.sum()} of {self.used.size} inputs used")
        return "\n".join([*lines, *([f"NOTE: {self.data.warning}"] if self.data.warning else [])])


def train_regression(
    *,
    dataset: str = "diabetes",
    hidden_sizes: int | Sequence[int] = (150,),
    prior: str = "log_uniform",
    kind: str = "variational",
    epochs: int | None = None,
    kl_weight: float = 1.0,
    seed: int = 0,
    backend: str = "auto",
    data_dir: str | Path | None = None,
    progress: bool = True,
) -> RegressionResult:
    """Train a network on a small regression table.

    Parameters
    ----------
    dataset : "diabetes" or "boston"
        Boston has an ethical problem, which is printed with every result (`Dataset.warning`).
    hidden_sizes : int or sequence of int
        Units of the hidden layers, with ReLU. The published example has 150, with tanh.
    prior : "log_uniform", "log_uniform_exact" or "ard"
        As in `Sequential`.
    kind : "variational" or "dense"
        Sparse VD; or, as a baseline, the same network with ordinary weights.
    epochs : int, optional
        Default: as many as make 1,500 steps.
    kl_weight : float
        Factor on the KL schedule, 0 to 1000: a larger one makes a sparser network. At 1, training ends with the
        evidence lower bound.
    seed : int
        Seed of the split into training and test rows, initial weights, order of examples and noise.
    backend : "auto", "numba" or "numpy"
        "auto" chooses NumPy for a network as small as this.
    data_dir : path, optional
        Where the data files are; default: `SVD_NUMPY_DATA`, then the user's cache.
    progress : bool
        Show a bar (in a terminal or a notebook) or a line per epoch (elsewhere).

    Returns
    -------
    RegressionResult

    Raises
    ------
    SvdValueError, SvdTypeError
        For arguments that make no sense; `DataError` if the data are not available.
    """
    check_choice("kind", kind, _KINDS)
    check_kl_weight(kl_weight, kind)
    check_flag("progress", progress)
    seed = check_count("seed", seed, low=0)
    data = load(dataset, data_dir)
    if data.n_classes:
        raise SvdValueError(f"dataset: got {dataset!r}, expected a table with a target: diabetes or boston")
    data, target_std = standardise(split_again(data, seed))
    model = make_network(
        data.x_train.shape[1], hidden_sizes, 1, likelihood=Gaussian(1.0), seed=seed, variational=kind == "variational",
        prior=prior, backend=backend,
    )  # fmt: skip
    config = make_config(len(data.x_train), epochs=epochs, kl_weight=kl_weight, seed=seed)
    if data.warning and progress:
        say(f"NOTE: {data.warning}")
    history = fit(model, data, config, [estimate_noise], progress=progress)
    return RegressionResult(model, history, data, kind, config.kl_weight, target_std)


def split_again(data: Dataset, seed: int) -> Dataset:
    """Put all rows together and draw a fifth of them for testing, with this seed.

    An error on a hundred test rows depends on the split as much as on the network; several splits tell the two apart.
    """
    x, y = np.vstack([data.x_train, data.x_test]), np.vstack([data.y_train, data.y_test])
    order = np.random.default_rng(seed).permutation(len(x))
    test, train = np.split(order, [-(-len(x) // _TEST_SHARE)])
    return replace(
        data, x_train=x[train], y_train=y[train], x_test=x[test], y_test=y[test],
        source=f"{data.source}; split again by seed {seed}",
    )  # fmt: skip


def standardise(data: Dataset) -> tuple[Dataset, float]:
    """Scale columns and target to mean 0 and std 1 on the training rows; also return the target's original std."""
    from sklearn.preprocessing import StandardScaler

    train = {name: getattr(data, f"{name}_train").astype(np.float64) for name in ("x", "y")}
    scalers = {name: StandardScaler().set_output(transform="default").fit(rows) for name, rows in train.items()}
    scaled = {
        f"{name}_{part}": scaler.transform(rows)
        for name, scaler in scalers.items()
        for part in ("train", "test", "valid")
        if (rows := getattr(data, f"{name}_{part}")) is not None
    }
    return replace(data, **scaled), float(scalers["y"].scale_[0])
