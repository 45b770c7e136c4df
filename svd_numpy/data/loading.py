"""`load`: finds, verifies and reads any data set, and downloads it if need be."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from svd_numpy.checks import SvdTypeError, SvdValueError
from svd_numpy.data import download as _download
from svd_numpy.data import small_tables, texts
from svd_numpy.data.cifar import read_cifar
from svd_numpy.data.dataset import Dataset, MissingDataError
from svd_numpy.data.idx_sets import IDX_SETS, OWN, of_images, read_family, read_own
from svd_numpy.data.pinned import FILE_SETS, FileSet
from svd_numpy.data.sources import (
    ENV_FOLDER,
    ENV_OFFLINE,
    Place,
    cache_dir,
    describe,
    find,
    read_verified,
    search_places,
)

EMBEDDED = {
    "digits": small_tables.digits,
    "diabetes": small_tables.diabetes,
    "reviews": texts.generated_sentences,
    "reviews-text": texts.generated_text,
}
NAMES = ("auto", *FILE_SETS, *IDX_SETS, OWN, *EMBEDDED)


def load(name: str, data_dir: str | Path | None = None, download: bool = True) -> Dataset:
    """Find, verify and read a data set; download it if that is allowed and needed.

    The files are looked for in `data_dir`; if that is not given, in the folder named by the environment
    variable ``SVD_NUMPY_DATA``, then in the user's cache, then on the mirrors. A folder may hold them as
    ``mnist/``, ``MNIST/raw/`` (as torchvision leaves them), or directly; packed by gzip or xz, or unpacked. Every
    file is checked against a pinned SHA-256 of its unpacked content. Folders you name are never written to.

    Parameters
    ----------
    name : str
        - "mnist", "fashion-mnist": 60,000 + 10,000 images of 28x28.
        - "cifar10", "cifar100": 50,000 + 10,000 colour images of 32x32, from the folder or the archive of their
          binary version; a test file that lacks some records is used, with `Dataset.warning` set.
        - "emnist-balanced", "emnist-byclass", "emnist-bymerge", "emnist-digits", "emnist-letters", "emnist-mnist",
          "kmnist", "qmnist" (from a folder only): relatives of MNIST; their shapes and labels are checked, their
          content is not.
        - "idx": your own images and labels, four files in `data_dir` named like MNIST's; anything may stand before
          ``train-images-idx3-ubyte``, and ``test`` for ``t10k``.
        - "digits": 1,437 + 360 small digits scaled to 28x28; needs no network and no file.
        - "boston" (from a folder only), "diabetes" (embedded): regression tables.
        - "tinyshakespeare", "rt-polarity" (from a folder only): a text of letters, and sentences of film reviews that
          praise or pan; "reviews-text", "reviews": made-up reviews in these two forms, which need no file.
        - "auto": "mnist"; if that cannot be found or downloaded, "digits" with `Dataset.warning` set.
    data_dir : str or Path, optional
        Search this folder only. "digits" and "diabetes" are embedded and need no folder.
    download : bool
        Whether the network may be used; ``SVD_NUMPY_OFFLINE=1`` forbids it as well.

    Returns
    -------
    Dataset
        See there for shapes and units.

    Raises
    ------
    TypeError
        If `name` or `data_dir` is of a wrong type.
    ValueError
        If `name` is unknown.
    DataError
        If `data_dir` does not exist, or a file is damaged or not the pinned one.
    MissingDataError
        If the files cannot be found; the message says what to do. (A DataError.)
    """
    check_name(name, NAMES)
    if name == "auto":
        return _load_auto(data_dir, download)
    if name in EMBEDDED:
        if data_dir is not None:
            search_places(data_dir)  # a mistyped folder is an error for every name
        return EMBEDDED[name]()
    if name == OWN:
        return read_own(data_dir)
    if name in IDX_SETS:
        return read_family(IDX_SETS[name], *_obtain(IDX_SETS[name], data_dir, download))
    file_set = FILE_SETS[name]
    paths, place = _obtain(file_set, data_dir, download)
    if name == "boston":
        return small_tables.boston(paths[0])
    if name in texts.READERS:
        return texts.READERS[name](paths)
    return read_cifar(file_set, paths, place) if file_set.archive else read_images(file_set, paths, place)


def check_name(name: str, known: tuple[str, ...]) -> None:
    """Raise TypeError or ValueError unless `name` is one of `known`."""
    if not isinstance(name, str):
        raise SvdTypeError(f"data set: got {name!r} of type {type(name).__name__}, expected a str")
    if name not in known:
        raise SvdValueError(f"unknown data set {name!r}; expected one of {', '.join(map(repr, known))}")


def read_images(file_set: FileSet, paths: list[Path], where: str) -> Dataset:
    """Read and verify the four files of an image set."""
    arrays = (read_verified(file_set, spec, path) for spec, path in zip(file_set.files, paths, strict=True))
    source = f"{paths[0].parent} ({where}, SHA-256 verified)"
    return of_images(file_set.name, arrays, file_set.n_classes, source)


def download_to_cache(file_set: FileSet) -> Path:
    """Download a set into its folder in the cache and return that folder; OSError if it cannot be done."""
    folder = cache_dir() / file_set.folders[0]
    _download.download(file_set, folder)
    return folder


def offline() -> bool:
    """Tell whether SVD_NUMPY_OFFLINE forbids the network."""
    return os.environ.get(ENV_OFFLINE, "").strip().lower() not in ("", "0", "false", "no")


def _load_auto(data_dir: str | Path | None, download: bool) -> Dataset:
    try:
        return load("mnist", data_dir, download)
    except MissingDataError as error:
        if data_dir is not None:
            raise  # the user said where to look: no other data may take their place
        note = (
            "NOT MNIST: scikit-learn's 1,797 small digits are used instead, because MNIST was not found and could not "
            f"be downloaded ({error.__cause__ or 'the network was not allowed'}). "
            "Error rates and sparsities cannot be compared with published ones. "
            'Ask for "mnist" to see how to supply it.'
        )
    return replace(small_tables.digits(), warning=note)


def _obtain(file_set: FileSet, data_dir: str | Path | None, download: bool) -> tuple[list[Path], str]:
    """Return the paths of all files of a set, and a description of where they are."""
    places = search_places(data_dir)
    notes: list[str] = []
    for place in places:
        paths, note = find(file_set, place.folder)
        if paths:
            return paths, place.why
        notes.append(note)
    if data_dir is not None:
        raise MissingDataError(missing_text(file_set, places, notes, "not tried, since data_dir is given"))
    if not file_set.mirrors:
        raise MissingDataError(missing_text(file_set, places, notes, "there is none for this data set"))
    if offline() or not download:
        why = f"{ENV_OFFLINE} is set" if offline() else "download=False"
        raise MissingDataError(missing_text(file_set, places, notes, f"not allowed ({why})"))
    try:
        folder = download_to_cache(file_set)
    except OSError as error:
        raise MissingDataError(missing_text(file_set, places, notes, f"failed: {error}")) from error
    return [folder / f"{spec.name}.gz" for spec in file_set.downloads], "downloaded into the cache"


def missing_text(file_set: FileSet, places: list[Place], notes: list[str], network: str) -> str:
    """Say what was looked for, where, and what the user can do."""
    searched = [f"  {p.folder} ({p.why}): {note}" for p, note in zip(places, notes, strict=True)]
    wanted = [f"  {describe(spec)}" for spec in file_set.files]
    more = "" if file_set.archive else " and so on"
    urls = [f"  {mirror}{file_set.downloads[0].name}.gz{more}" for mirror in file_set.mirrors]
    lines = [
        f"{file_set.title} was not found.",
        "Folders searched:",
        *searched,
        f"Download: {network}",
        "Files expected" + (" (gzipped or unpacked):" if urls else ":"),
        *wanted,
        *([f"or all of them in {describe(file_set.archive)}"] if file_set.archive else []),
        *(["They can be downloaded by hand from:", *urls] if urls else []),
        f"What to do: put the files in FOLDER/{file_set.folders[0]}/ and pass data_dir=FOLDER (on the command line "
        f"--data-dir FOLDER), or set the environment variable {ENV_FOLDER}=FOLDER.",
    ]
    if not file_set.archive:
        of_text = {"tinyshakespeare": "reviews-text", "rt-polarity": "reviews"}
        substitute = of_text.get(file_set.name, "diabetes" if file_set.n_classes == 0 else "digits")
        lines.append(f'With no network and no files, dataset="{substitute}" works in place of "{file_set.name}".')
    return "\n".join(lines)
