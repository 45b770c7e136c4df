"""Sparse Variational Dropout ("SVD" here; never the singular value decomposition) on NumPy and Numba.

>>> import svd_numpy as svd
>>> result = svd.train_mnist()        # doctest: +SKIP
>>> print(result)                     # doctest: +SKIP

Names are resolved on first use, so that importing the package costs hardly more than importing NumPy.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "AvgPool2d": "layers",
    "BatchNorm": "layers",
    "Categorical": "objective",
    "Conv2d": "layers",
    "DataError": "data",
    "Dataset": "data",
    "Dense": "layers",
    "Dropout": "layers",
    "Flatten": "layers",
    "Gaussian": "objective",
    "GaussianDropout": "layers",
    "MaxPool2d": "layers",
    "ReLU": "layers",
    "Sequential": "model",
    "SparseModel": "sparse",
    "SparseVDClassifier": "estimators",
    "SparseVDRegressor": "estimators",
    "TrainConfig": "train",
    "TrainResult": "experiments.result",
    "TrainResults": "experiments.series",
    "TrainingInterrupted": "console",
    "VariationalConv2d": "layers",
    "VariationalDense": "layers",
    "auroc": "uncertainty",
    "available_backends": "kernels",
    "calibration": "uncertainty",
    "compress": "sparse",
    "decompose": "uncertainty",
    "evaluate": "scoring",
    "export_csr": "exchange",
    "export_onnx": "exchange",
    "fit": "train",
    "from_torch_state_dict": "exchange",
    "get_backend": "kernels",
    "gradcheck": "grad_check",
    "kl_divergence": "priors",
    "load": "data",
    "load_packed": "storage",
    "log_alpha": "sparsity",
    "measure_sparsity": "sparsity",
    "measure_uncertainty": "experiments.uncertainty",
    "pack": "storage",
    "posterior_bits": "storage",
    "quantise": "storage",
    "sample_probabilities": "uncertainty",
    "save_packed": "storage",
    "save_torch_state_dict": "exchange",
    "search_bits": "storage",
    "select_threshold": "thresholds",
    "sizes": "storage",
    "sparsify": "sparsity",
    "threshold_curve": "thresholds",
    "threshold_for_density": "thresholds",
    "torch_state_dict": "exchange",
    "train_cifar": "experiments.cifar",
    "train_mnist": "experiments.mnist",
    "train_regression": "experiments.regression",
    "unpack": "storage",
}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"svd_numpy.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'svd_numpy' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
