"""The estimators are scikit-learn's: its own checks, and what is read off a fitted one."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, make_regression
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import svd_numpy as svd

QUICK: dict[str, Any] = {"epochs": 60, "random_state": 0}


@parametrize_with_checks([svd.SparseVDClassifier(), svd.SparseVDRegressor()])
def test_the_checks_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)
