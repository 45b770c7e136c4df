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
    "AvgPool2d": "network.layers",
    "BatchNorm": "network.layers",
    "Between": "experiments.sweep",
    "Categorical": "network.objective",
    "CheckpointError": "files.safe_arrays",
    "CompressionError": "sparse.model",
    "Conv2d": "network.layers",
    "DataError": "data",
    "Dataset": "data",
    "Dense": "network.layers",
    "Dropout": "network.layers",
    "Embedding": "network.layers",
    "Flatten": "network.layers",
    "GRU": "network.layers",
    "Gate": "network.layers",
    "Gaussian": "network.objective",
    "GaussianDropout": "network.layers",
    "GradualMagnitude": "train.magnitude",
    "IVON": "train.ivon",
    "IntegerModel": "exchange",
    "LSTM": "network.layers",
    "Layer": "network.layers",
    "MagnitudeRounds": "train.magnitude",
    "MaxPool2d": "network.layers",
    "MissingDataError": "data",
    "MlflowLog": "train.trackers",
    "Pad2d": "network.layers",
    "ReLU": "network.layers",
    "RecurrentModel": "sparse",
    "RegressionResult": "experiments.regression",
    "Sequential": "network.model",
    "SparseModel": "sparse",
    "SparseVDClassifier": "tabular.estimators",
    "SparseVDRegressor": "tabular.estimators",
    "Surgery": "train.surgery",
    "SvdError": "checks",
    "SvdTypeError": "checks",
    "SvdValueError": "checks",
    "SweepResult": "experiments.sweep",
    "TensorBoardLog": "train.trackers",
    "TextResult": "experiments.text_result",
    "TrainConfig": "train.config",
    "TrainResult": "experiments.result",
    "TrainResults": "experiments.series",
    "Trainer": "train.trainer",
    "TrainingInterrupted": "train.console",
    "UncertaintyReport": "experiments.uncertainty",
    "VariationalConv2d": "network.layers",
    "VariationalDense": "network.layers",
    "VariationalEmbedding": "network.layers",
    "VariationalGRU": "network.layers",
    "VariationalLSTM": "network.layers",
    "WeightSharing": "train.sharing",
    "auroc": "assess.uncertainty",
    "available_backends": "kernels",
    "bayesian_compression": "experiments.gated",
    "calibration": "assess.uncertainty",
    "compress": "sparse",
    "decompose": "assess.uncertainty",
    "evaluate": "network.scoring",
    "evidence_against": "network.evidence",
    "export_c": "exchange",
    "export_csr": "exchange",
    "export_html": "exchange",
    "export_onnx": "exchange",
    "export_writer": "exchange",
    "fit": "train.loop",
    "fold_gates": "network.fold",
    "from_torch_state_dict": "exchange",
    "generate": "experiments.generating",
    "get_backend": "kernels",
    "gradcheck": "network.grad_check",
    "join_ranks": "train.ranks",
    "kl_divergence": "kernels.priors",
    "l0_regularisation": "experiments.gated",
    "load": "data",
    "load_packed": "sparse.storage",
    "log_alpha": "network.sparsity",
    "measure_sparsity": "network.sparsity",
    "measure_uncertainty": "experiments.uncertainty",
    "pack": "sparse.storage",
    "posterior_bits": "sparse.storage",
    "prune_by_evidence": "network.evidence",
    "quantise": "sparse.storage",
    "sample_probabilities": "assess.uncertainty",
    "save_packed": "sparse.storage",
    "save_torch_state_dict": "exchange",
    "search_bits": "sparse.storage",
    "select_threshold": "assess.thresholds",
    "sentence_dataset": "data",
    "sizes": "sparse.storage",
    "sparsify": "network.sparsity",
    "structured_pruning": "experiments.gated",
    "sweep": "experiments.sweep",
    "text_dataset": "data",
    "threshold_curve": "assess.thresholds",
    "threshold_for_density": "assess.thresholds",
    "to_integers": "exchange",
    "torch_state_dict": "exchange",
    "train_cifar": "experiments.cifar",
    "train_mnist": "experiments.mnist",
    "train_regression": "experiments.regression",
    "train_sentiment": "experiments.text",
    "train_text": "experiments.text",
    "unpack": "sparse.storage",
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
