"""Data that is simply there: ``load(name)`` finds, verifies, or downloads a data set."""

from svd_numpy.data.dataset import DataError, Dataset, MissingDataError
from svd_numpy.data.idx import read_idx
from svd_numpy.data.loading import NAMES, load
from svd_numpy.data.manage import fetch, import_folder, status
from svd_numpy.data.text import sentence_dataset, text_dataset

__all__ = [
    "NAMES",
    "DataError",
    "Dataset",
    "MissingDataError",
    "fetch",
    "import_folder",
    "load",
    "read_idx",
    "sentence_dataset",
    "status",
    "text_dataset",
]
