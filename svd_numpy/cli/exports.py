"""The commands that hand on a trained network: pack, export-c, demo, card; all write a card, too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from svd_numpy.checks import SvdValueError, check_number
from svd_numpy.cli.saved_runs import open_network, open_run

if TYPE_CHECKING:
    from svd_numpy.data import Dataset
    from svd_numpy.exchange import IntegerModel
    from svd_numpy.network.model import Sequential
    from svd_numpy.sparse import SparseModel

_CALIBRATION = 2000  # training examples


@dataclass(frozen=True)
class Pack:
    """Write the pruned network of a run as the smallest file that there is of it.

    Attributes
    ----------
    path : path
        A run folder, or a model.safetensors file.
    out : path, optional
        The file, ending in .svdz; None is `network.svdz` in the run folder.
    tolerance : float
        Round weights and biases to the fewest bits that raise the error on the training examples by at most so much, a
        share of them. 0 rounds nothing: weights that were rounded while training (train --finetune-bits) are small
        already.
    dataset : str, optional
        The data on which errors are measured; None takes the data set of the run.
    data_dir : path, optional
        Folder of the data files; None looks in SVD_NUMPY_DATA, then in the user's cache, then downloads.
    """

    path: Path
    out: Path | None = None
    tolerance: float = 0.0
    dataset: str | None = None
    data_dir: Path | None = None

    def run(self) -> int:
        """Write the file, read it back, and say how small it is and how much the rounding costs."""
        from svd_numpy.sparse import compress
        from svd_numpy.sparse.storage import load_packed, quantise, save_packed, search_bits, sizes

        tolerance = check_number("tolerance", self.tolerance, low=0, high=1)
        model, data, home = open_fitting(self.path, self.dataset, self.data_dir)
        small = compress(model)
        networks = {"in 32 bits": small}
        if tolerance:
            bits = search_bits(small, data.x_train, data.y_train, tolerance)
            small = networks["in few bits"] = quantise(small, bits)
            print(f"bits: {', '.join(f'{name} {number}' for name, number in bits.items())}")
        out = self.out or home / "network.svdz"
        save_packed(out, small)
        networks["as packed"] = load_packed(out)
        if data.n_classes:
            say_errors(networks, data)
        print(sizes(small))
        print(f"written: {out} ({out.stat().st_size:,} bytes)")
        say_card(home, out, out.with_suffix(".card.md"))
        return 0


@dataclass(frozen=True)
class ExportC:
    """Write the pruned network of a run as C for microcontrollers: no library, no heap, whole numbers.

    Attributes
    ----------
    path : path
        A run folder, or a model.safetensors file.
    folder : path, optional
        Where to write NAME.c, NAME.h, main.c, Makefile and README.md; its last part is NAME, an identifier in C. None
        is `network` in the run folder.
    numbers : str
        "integers" (8-bit weights and activations) or "floats".
    dataset : str, optional
        The data whose training examples show which range each layer needs; None takes the data set of the run.
    data_dir : path, optional
        Folder of the data files; None looks in SVD_NUMPY_DATA, then in the user's cache, then downloads.
    """

    path: Path
    folder: Path | None = None
    numbers: str = "integers"
    dataset: str | None = None
    data_dir: Path | None = None

    def run(self) -> int:
        """Export, and say how much the rounding costs."""
        from svd_numpy.exchange import export_c, to_integers
        from svd_numpy.sparse import compress

        model, data, home = open_fitting(self.path, self.dataset, self.data_dir)
        small = compress(model)
        calibration = data.x_train[:_CALIBRATION]
        written = export_c(
            small, self.folder or home / "network", calibration, examples=data.x_test, numbers=self.numbers
        )
        networks: dict[str, SparseModel | IntegerModel] = {"in floats": small}
        if self.numbers == "integers":
            networks["in whole numbers"] = to_integers(small, calibration)
        if data.n_classes:
            say_errors(networks, data)
        print(f"written: {written} and beside it main.c, Makefile, README.md")
        print(f"test it: make -C {written.parent}")
        say_card(home, written, written.parent / "MODEL_CARD.md")
        return 0


@dataclass(frozen=True)
class Demo:
    """Write one self-contained web page on which one draws digits for the network of a run and looks inside it.

    If the network was trained on letters, the page lets it write instead.

    Attributes
    ----------
    path : path
        A run folder, or a model.safetensors file.
    out : path, optional
        The page, ending in .html; None is `demo.html` in the run folder.
    dataset : str, optional
        The data whose test digits go into the page; None takes the data set of the run.
    data_dir : path, optional
        Folder of the data files; None looks in SVD_NUMPY_DATA, then in the user's cache, then downloads.
    """

    path: Path
    out: Path | None = None
    dataset: str | None = None
    data_dir: Path | None = None

    def run(self) -> int:
        """Write the page; a fine-tuned network gets the log alphas that the run has kept from before."""
        from svd_numpy.exchange import export_html, export_writer
        from svd_numpy.experiments.run_files import load_log_alphas
        from svd_numpy.kernels.priors import LOG_SIGMA2_MIN

        network, file = open_network(self.path)
        if network.layers[0].takes_tokens is not None:
            page = export_writer(network, self.out or file.parent / "demo.html")
            print(f"written: {page} ({page.stat().st_size:,} bytes); open it in a browser")
            return 0
        model, data, home = open_fitting(self.path, self.dataset, self.data_dir)
        tuned = all((layer.log_sigma2 <= LOG_SIGMA2_MIN).all() for layer in model.variational_layers)
        log_alphas, threshold = None, None
        if tuned and (home / "log_alpha.npz").is_file():
            log_alphas, threshold = load_log_alphas(home / "log_alpha.npz")
        page = export_html(
            model, self.out or home / "demo.html", data.x_test, data.y_test, log_alphas=log_alphas, threshold=threshold
        )
        print(f"written: {page} ({page.stat().st_size:,} bytes); open it in a browser")
        say_card(home, page, page.with_suffix(".card.md"))
        return 0


@dataclass(frozen=True)
class Card:
    """Write a model card of a finished run: what it is, its figures, how it was trained, how to load it.

    Attributes
    ----------
    path : path
        A run folder of `train` or `train-cifar`.
    exported : paths
        Other files with the network, whose sizes the card gives, too.
    out : path, optional
        The card; None is README.md in the run folder, where model hubs look for it.
    """

    path: Path
    exported: tuple[Path, ...] = ()
    out: Path | None = None

    def run(self) -> int:
        """Write the card."""
        from svd_numpy.experiments.card import write_card

        print(f"written: {write_card(self.path, self.exported, self.out)}")
        return 0


def say_errors(networks: Mapping[str, SparseModel | IntegerModel], data: Dataset) -> None:
    """Print the error of each network on the test examples."""
    print(f"error on the {len(data.x_test):,} test examples of {data.name}:")
    for what, network in networks.items():
        wrong = network.predict(data.x_test).argmax(axis=1) != data.y_test
        print(f"  {what:<18}{100 * wrong.mean():6.2f} %")


def say_card(home: Path, exported: Path, path: Path) -> None:
    """Write the card of an exported network, if it comes from a finished run, whose figures a card needs."""
    from svd_numpy.experiments.card import write_card
    from svd_numpy.experiments.run_files import read_result

    if "arch" in read_result(home):
        print(f"model card: {write_card(home, [exported], path)}")


def open_fitting(path: Path, dataset: str | None, data_dir: Path | None) -> tuple[Sequential, Dataset, Path]:
    """Return a network, data that it can read, and the folder that it is in."""
    model, data, file = open_run(path, dataset, data_dir)
    size = math.prod(data.x_train.shape[1:])
    if size != math.prod(model.in_shape):
        raise SvdValueError(
            f"{file} reads {math.prod(model.in_shape):,} numbers, but an example of {data.name} has {size:,}; give the "
            "data set that it was trained on with --dataset"
        )
    return model, data, file.parent
