"""Which files make up a data set, where they may lie, and the check that they are the right ones.

Nothing here writes: a folder that is searched may be read-only.
"""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from svd_numpy.data.dataset import DataError
from svd_numpy.data.idx import idx_header, open_maybe_gzip, read_at_most, read_idx

ENV_FOLDER = "SVD_NUMPY_DATA"
ENV_OFFLINE = "SVD_NUMPY_OFFLINE"


@dataclass(frozen=True)
class FileSpec:
    """One file of a data set, pinned by the SHA-256 of what it holds once unpacked.

    Attributes
    ----------
    name : str
        File name when unpacked; gzipped it carries ``.gz``.
    shape : tuple of int
        Shape of the IDX array, or ``(bytes,)`` when `is_idx` is False.
    sha256 : str
        Digest of the unpacked file.
    gz_bytes, gz_sha256 : int, str
        Size and digest of the gzipped file on the mirrors; 0 and "" where there is no download.
    is_idx : bool
        Whether the file is IDX; otherwise it is text.
    """

    name: str
    shape: tuple[int, ...]
    sha256: str
    gz_bytes: int = 0
    gz_sha256: str = ""
    is_idx: bool = True

    @property
    def content_bytes(self) -> int:
        """Size of the unpacked file, header included."""
        header = len(idx_header(self.shape)) if self.is_idx else 0
        return header + math.prod(self.shape)

    @property
    def accepted_names(self) -> tuple[str, ...]:
        """File names looked for, best first (the dotted form is how some archives spell it)."""
        stems = dict.fromkeys((self.name, self.name.replace("-idx", ".idx")))
        return tuple(f"{stem}{end}" for end in (".gz", "") for stem in stems)


@dataclass(frozen=True)
class FileSet:
    """A data set kept in files.

    Attributes
    ----------
    name, title : str
        Name for `load`, and how people call it.
    files : tuple of FileSpec
        For images: training images, training labels, test images, test labels, in this order.
    folders : tuple of str
        Sub-folders in which the files are looked for; the folder itself and its ``raw`` come last. The first
        one is the place in the cache.
    mirrors : tuple of str
        Base URLs, ending in "/", tried in order; empty where the set is not downloaded.
    n_classes : int
        Number of classes; 0 for regression.
    """

    name: str
    title: str
    files: tuple[FileSpec, ...]
    folders: tuple[str, ...]
    mirrors: tuple[str, ...]
    n_classes: int


# Digests: computed from the original files, whose MD5 are the published ones.
FILE_SETS: dict[str, FileSet] = {
    # LeCun, Cortes, Burges 1998; cite LeCun et al., Proc. IEEE 86(11), 1998. Licence: CC BY-SA 3.0.
    "mnist": FileSet(
        name="mnist",
        title="MNIST",
        files=(
            FileSpec(
                "train-images-idx3-ubyte",
                (60_000, 28, 28),
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                9_912_422,
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            ),
            FileSpec(
                "train-labels-idx1-ubyte",
                (60_000,),
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                28_881,
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            ),
            FileSpec(
                "t10k-images-idx3-ubyte",
                (10_000, 28, 28),
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                1_648_877,
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            ),
            FileSpec(
                "t10k-labels-idx1-ubyte",
                (10_000,),
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
                4_542,
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
        ),
        folders=("mnist", "MNIST/raw", "MNIST"),
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            "http://yann.lecun.com/exdb/mnist/",
        ),
        n_classes=10,
    ),
    # Xiao, Rasul, Vollgraf, arXiv:1708.07747, 2017. Licence: MIT.
    "fashion-mnist": FileSet(
        name="fashion-mnist",
        title="Fashion-MNIST",
        files=(
            FileSpec(
                "train-images-idx3-ubyte",
                (60_000, 28, 28),
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                26_421_880,
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            ),
            FileSpec(
                "train-labels-idx1-ubyte",
                (60_000,),
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
                29_515,
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            ),
            FileSpec(
                "t10k-images-idx3-ubyte",
                (10_000, 28, 28),
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                4_422_102,
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            ),
            FileSpec(
                "t10k-labels-idx1-ubyte",
                (10_000,),
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
                5_148,
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            ),
        ),
        folders=("fashion-mnist", "FashionMNIST/raw", "FashionMNIST"),
        mirrors=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        ),
        n_classes=10,
    ),
    # Harrison, Rubinfeld, J. Environ. Economics & Management 5, 1978. Never downloaded, see small_tables.
    "boston": FileSet(
        name="boston",
        title="Boston housing",
        files=(
            FileSpec(
                "housing.data",
                (49_082,),
                "baadf72995725d76efe787b664e1f083388c79ba21ef9a7990d87f774184735a",
                is_idx=False,
            ),
        ),
        folders=("boston",),
        mirrors=(),
        n_classes=0,
    ),
}


@dataclass(frozen=True)
class Place:
    """A folder to search, and why it is searched."""

    folder: Path
    why: str


def cache_dir() -> Path:
    """Return the user's cache folder, which is the only folder ever written to."""
    import pooch

    return Path(pooch.os_cache("svd_numpy"))


def search_places(data_dir: str | Path | None) -> list[Place]:
    """List the folders to search: only `data_dir` if given, else $SVD_NUMPY_DATA and the cache.

    Raises
    ------
    TypeError
        If `data_dir` is not a path.
    DataError
        If a folder named by the user does not exist.
    """
    if data_dir is not None:
        return [Place(_existing_folder(data_dir, "data_dir"), "data_dir")]
    named = os.environ.get(ENV_FOLDER, "")
    places = [Place(_existing_folder(named, ENV_FOLDER), ENV_FOLDER)] if named else []
    return [*places, Place(cache_dir(), "the cache")]


def find(file_set: FileSet, folder: Path) -> tuple[list[Path], str]:
    """Look for all files of a set in one folder.

    Returns
    -------
    paths : list of Path
        In the order of ``file_set.files``; empty if the set is not there.
    note : str
        Why the list is empty.
    """
    note = "nothing of it there"
    for sub in (*file_set.folders, "", "raw"):
        found = [_first_file(folder / sub, spec) for spec in file_set.files]
        paths = [path for path in found if path is not None]
        if len(paths) == len(found):
            owner = _other_owner(file_set, paths[-1])
            if not owner:
                return paths, ""
            note = f"the files in {folder / sub} are those of {owner!r}"
        elif paths:
            missing = [spec.name for spec, path in zip(file_set.files, found, strict=True) if path is None]
            note = f"{folder / sub} lacks {', '.join(missing)}"
    return [], note


def read_verified(file_set: FileSet, spec: FileSpec, path: Path) -> NDArray[np.uint8]:
    """Read one file and check its shape, its labels and its digest.

    Returns
    -------
    array of uint8
        With ``spec.shape``.

    Raises
    ------
    DataError
        If the file is not byte for byte (once unpacked) the pinned one.
    """
    array, digest = _read_and_digest(spec, path)
    remedy = f"Delete it or replace it by the original, {describe(spec)}."
    if array.shape != spec.shape:
        raise DataError(f"{path}: holds shape {array.shape}; expected {spec.shape}. {remedy}")
    if spec.is_idx and array.ndim == 1 and array.size and int(array.max()) >= file_set.n_classes:
        raise DataError(f"{path}: holds the label {int(array.max())}; expected 0..{file_set.n_classes - 1}. {remedy}")
    if digest != spec.sha256:
        owner = _owner(digest)
        what = f"this is the file of {owner!r}" if owner else f"its unpacked content has SHA-256 {digest}"
        raise DataError(f"{path}: {what}; expected {file_set.title}'s, {spec.sha256}. {remedy}")
    return array


def describe(spec: FileSpec) -> str:
    """Return a file's name and sizes in words."""
    if not spec.gz_bytes:
        return f"{spec.name} ({spec.content_bytes} bytes)"
    return f"{spec.name}.gz ({spec.gz_bytes} bytes; unpacked {spec.content_bytes})"


def _existing_folder(folder: str | Path, label: str) -> Path:
    if not isinstance(folder, str | os.PathLike):
        raise TypeError(f"{label} must be a path (str or Path), got {type(folder).__name__}")
    path = Path(folder).expanduser()
    if not str(folder) or not os.path.isdir(path):
        raise DataError(f"{label} is {str(folder)!r}, which is not a folder; give one that exists or leave it out")
    return path


def _first_file(folder: Path, spec: FileSpec) -> Path | None:
    candidates = (folder / name for name in spec.accepted_names)
    return next((path for path in candidates if os.path.isfile(path)), None)


def _other_owner(file_set: FileSet, path: Path) -> str:
    """Name the set to which the last file of a find belongs, if that is another one.

    MNIST and Fashion-MNIST use the same file names; their last file, the test labels, is small.
    """
    try:
        _, digest = _read_and_digest(file_set.files[-1], path)
    except DataError:
        return ""  # a damaged file is reported when it is read
    owner = _owner(digest)
    return "" if owner == file_set.name else owner


def _owner(digest: str) -> str:
    owners = (s.name for s in FILE_SETS.values() if any(spec.sha256 == digest for spec in s.files))
    return next(owners, "")


def _read_and_digest(spec: FileSpec, path: Path) -> tuple[NDArray[np.uint8], str]:
    if spec.is_idx:
        array = read_idx(path, max_bytes=math.prod(spec.shape))
        sha = hashlib.sha256(idx_header(array.shape))
    else:
        with open_maybe_gzip(path) as stream:
            array = np.frombuffer(read_at_most(stream, spec.content_bytes + 1), dtype=np.uint8)
        sha = hashlib.sha256()
    sha.update(array.data.cast("B") if array.size else b"")
    return array, sha.hexdigest()
