"""What a network does not know: entropies of its prediction, calibration, and detection of foreign inputs.

A Sparse VD network has a posterior until it is fine-tuned: `Sequential.sample` draws networks from it. If they disagree
about an input, the network lacks knowledge; if each of them hesitates, the input is ambiguous.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from svd_numpy.checks import SvdTypeError, SvdValueError, as_array, check_count, check_flag, check_labels, check_type
from svd_numpy.kernels import priors
from svd_numpy.kernels.backend import Array
from svd_numpy.kernels.priors import LOG_SIGMA2_MIN
from svd_numpy.network.model import Sequential
from svd_numpy.network.objective import Categorical
from svd_numpy.network.sparsity import sparsify


def sample_probabilities(model: Sequential, x: Any, n: int = 100, survivors_only: bool = False) -> Array:
    """Class probabilities of n networks drawn from the posterior: array (n, B, C), float32 or float64.

    Parameters
    ----------
    model : Sequential
        A classifier that still has its noise. The samples are a function of its seed: the same model gives the same.
    x : array (B, ...)
    n : int
    survivors_only : bool
        Draw pruned networks: weights above the model's threshold are exactly 0, and only the others vary. Otherwise
        all weights vary, as in training.

    Raises
    ------
    SvdValueError, SvdTypeError
        For a regression network, or one without noise.
    """
    check_type("model", model, Sequential)
    if not isinstance(model.likelihood, Categorical):
        raise SvdValueError(f"model: got the likelihood {model.likelihood!r}, expected a classifier's, Categorical()")
    if all((layer.log_sigma2 <= LOG_SIGMA2_MIN).all() for layer in model.variational_layers):
        raise SvdValueError(
            "model: got a network without noise, expected one that variational training left; fine-tuning removes it, "
            "so train with finetune_epochs=0, for example with recipe='paper'"
        )
    if check_flag("survivors_only", survivors_only):
        threshold, model = model.threshold, sparsify(model, model.threshold)
        for layer in model.variational_layers:
            layer.log_sigma2[priors.log_alpha(layer.theta, layer.log_sigma2) > threshold] = LOG_SIGMA2_MIN
    return np.stack([model.likelihood.mean(outputs) for outputs in model.sample(x, n)])


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """The uncertainty of predictions, and its two parts, in nats.

    Attributes
    ----------
    mean : array (B, C)
        Class probabilities, averaged over the networks.
    total : array (B,)
        Predictive entropy, which is that of the average.
    data : array (B,)
        Average of the networks' entropies: what would remain if the weights were known exactly (aleatoric).
    knowledge : array (B,)
        The difference, at least 0: the mutual information of label and weights (epistemic; "BALD").

    Notes
    -----
    H[E p] = E H[p] + I(y, w): Houlsby et al. 2011, equation 2; Depeweg et al. 2018, section 2.
    """

    mean: Array
    total: Array
    data: Array
    knowledge: Array


def decompose(probabilities: Any) -> Uncertainty:
    """Split the uncertainty of sampled predictions into what more data could remove and what they could not.

    Parameters
    ----------
    probabilities : array (n, B, C)
        As `sample_probabilities` returns them. With n = 1 there is no uncertainty about the weights.
    """
    from scipy.special import entr

    probabilities = _check_probabilities(probabilities, 3, "(n, B, C)")
    mean = probabilities.mean(axis=0, dtype=np.float64)
    total = entr(mean).sum(axis=1)
    data = entr(probabilities).sum(axis=2).mean(axis=0)
    return Uncertainty(mean, total, data, np.maximum(total - data, 0))  # Jensen; rounding may go below 0


@dataclass(frozen=True, eq=False)
class Calibration:
    """How often predictions of a certain confidence are right, in bins of equal width.

    Attributes
    ----------
    edges : array (bins + 1,)
        Of the bins of the confidence, which is the probability of the predicted class.
    count : array (bins,)
        Predictions in each bin.
    confidence, accuracy : array (bins,)
        Mean confidence, and share that is right; NaN in an empty bin.
    """

    edges: Array
    count: Array
    confidence: Array
    accuracy: Array

    @property
    def error(self) -> float:
        """Expected calibration error: mean of |accuracy - confidence| of the bins, weighted by their predictions.

        Naeini et al. 2015; Guo et al. 2017, equation 3. It depends on the number of bins.
        """
        gap = np.abs(self.accuracy - self.confidence)
        return float(np.nansum(self.count * gap) / self.count.sum())


def calibration(probabilities: Any, labels: Any, bins: int = 15) -> Calibration:
    """Compare confidence with accuracy.

    Parameters
    ----------
    probabilities : array (B, C)
        Of one network, or averaged over several.
    labels : array (B,) of int
    bins : int
        15 as in Guo et al. 2017.
    """
    probabilities = _check_probabilities(probabilities, 2, "(B, C)")
    labels = check_labels("labels", labels, len(probabilities), probabilities.shape[1])
    edges = np.linspace(0, 1, check_count("bins", bins) + 1)
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    which = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)  # bins are (low, high]
    count = np.bincount(which, minlength=bins)
    with np.errstate(invalid="ignore"):  # 0 / 0 in an empty bin
        sums = (np.bincount(which, weights=values, minlength=bins) / count for values in (confidence, right))
        return Calibration(edges, count, *sums)


def auroc(inside: Any, outside: Any) -> float:
    """Area under the ROC curve of a score that should tell foreign inputs from familiar ones by being higher.

    It is the probability that a random foreign input scores higher than a random familiar one, ties counting half
    (Hanley and McNeil 1982): 0.5 is chance, 1 perfect.

    Parameters
    ----------
    inside, outside : array (B,), (B',)
        Scores of familiar and of foreign inputs, finite.
    """
    from sklearn.metrics import roc_auc_score

    scores = [as_array("inside", inside), as_array("outside", outside)]
    for name, score in zip(("inside", "outside"), scores, strict=True):
        if score.dtype.kind not in "biuf":
            raise SvdTypeError(f"{name}: got dtype {score.dtype}, expected a number for each input")
        if score.ndim != 1 or not score.size or not np.isfinite(score).all():
            raise SvdValueError(
                f"{name}: got shape {score.shape}, NaN or infinity, expected one finite number for each input, "
                "at least one"
            )
    foreign = np.repeat([0, 1], [len(score) for score in scores])
    return float(roc_auc_score(foreign, np.concatenate(scores)))


def _check_probabilities(probabilities: Any, ndim: int, shape: str) -> Array:
    array = as_array("probabilities", probabilities)
    if array.ndim != ndim or not array.size or not np.issubdtype(array.dtype, np.floating):
        raise SvdValueError(
            f"probabilities: got shape {array.shape} of {array.dtype}, expected floats of shape {shape}"
        )
    if not ((array >= 0).all() and np.allclose(array.sum(axis=-1), 1, atol=1e-4)):
        raise SvdValueError("probabilities: got numbers below 0 or rows whose sum is not 1, expected those of classes")
    return array
