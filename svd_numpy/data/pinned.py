"""The registry: which files make up each data set, pinned by size and SHA-256."""

from __future__ import annotations

import math
from dataclasses import dataclass

from svd_numpy.data.idx import idx_header

PACKINGS = (".gz", "", ".xz")  # how a file may be packed; the first one found is used


@dataclass(frozen=True)
class FileSpec:
    """One file of a data set, pinned by the SHA-256 of what it holds once unpacked.

    Attributes
    ----------
    name : str
        File name when unpacked; the gzipped file has ``.gz`` added.
    shape : tuple of int
        Shape of the IDX array; ``(records, bytes of each)`` for records, ``(bytes,)`` for a text, empty for an
        archive.
    sha256 : str
        Digest of the unpacked file; empty for an archive, of which only the files in it are checked, and in `idx_sets`.
    gz_bytes, gz_sha256 : int, str
        Size and digest of the gzipped file on the mirrors; 0 and "" for a file that is not downloaded.
    is_idx : bool
        Whether the file is IDX; otherwise it is records, text or an archive.
    aliases : tuple of str
        Other names that the file may have, looked for last.
    item_bytes : int
        Bytes of each number in the array.
    """

    name: str
    shape: tuple[int, ...]
    sha256: str
    gz_bytes: int = 0
    gz_sha256: str = ""
    is_idx: bool = True
    aliases: tuple[str, ...] = ()
    item_bytes: int = 1

    @property
    def content_bytes(self) -> int:
        """Size of the unpacked file, header included."""
        header = len(idx_header(self.shape)) if self.is_idx else 0
        return header + math.prod(self.shape) * self.item_bytes

    @property
    def accepted_names(self) -> tuple[str, ...]:
        """File names to look for, best first (some archives write a dot for the first hyphen of ``-idx``)."""
        stems = dict.fromkeys((self.name, self.name.replace("-idx", ".idx")))
        names = [f"{stem}{end}" for end in PACKINGS for stem in stems]
        return (*names, *(f"{stem}{end}" for stem in self.aliases for end in PACKINGS))


@dataclass(frozen=True)
class FileSet:
    """A data set kept in files.

    Attributes
    ----------
    name, title : str
        The name that `load` takes, and the name that people use.
    files : tuple of FileSpec
        For IDX images: training images, training labels, test images, test labels, in this order; for records
        of label and image: all training files, then the test file.
    folders : tuple of str
        Sub-folders in which the files are looked for; the folder itself and its ``raw`` come last. In the cache the
        first one is used.
    mirrors : tuple of str
        Base URLs, ending in "/", tried in order; empty where the set is not downloaded.
    n_classes : int
        Number of classes; 0 for regression.
    archive : FileSpec, optional
        The tar file, with all of `files` in it, in which the set is published; it is accepted in their place.
    """

    name: str
    title: str
    files: tuple[FileSpec, ...]
    folders: tuple[str, ...]
    mirrors: tuple[str, ...]
    n_classes: int
    archive: FileSpec | None = None

    @property
    def downloads(self) -> tuple[FileSpec, ...]:
        """What the mirrors hold, each gzipped: the archive, or else the files."""
        return (self.archive,) if self.archive else self.files

    def specs_at(self, found: int) -> tuple[FileSpec, ...]:
        """What the paths returned by `sources.find` hold, given their number: the files, or the archive alone."""
        return self.files if found == len(self.files) else self.downloads


# The digests were computed from the original files, whose MD5 is the published one; those of CIFAR-10's test file,
# CIFAR-100 and the archives are taken from public code that pins them.
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
    # Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009. No licence is stated. The binary
    # version: the one in Python's own format would have to be executed to be read.
    "cifar10": FileSet(
        name="cifar10",
        title="CIFAR-10 (binary version)",
        files=(
            FileSpec(
                "data_batch_1.bin",
                (10_000, 3_073),
                "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
                is_idx=False,
            ),
            FileSpec(
                "data_batch_2.bin",
                (10_000, 3_073),
                "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
                is_idx=False,
            ),
            FileSpec(
                "data_batch_3.bin",
                (10_000, 3_073),
                "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
                is_idx=False,
            ),
            FileSpec(
                "data_batch_4.bin",
                (10_000, 3_073),
                "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
                is_idx=False,
            ),
            FileSpec(
                "data_batch_5.bin",
                (10_000, 3_073),
                "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
                is_idx=False,
            ),
            FileSpec(
                "test_batch.bin",
                (10_000, 3_073),
                "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
                is_idx=False,
                aliases=("test_batch_9980.bin",),  # a copy that lacks 20 images goes by this name
            ),
        ),
        folders=("cifar10", "cifar-10-batches-bin", "cifar10/cifar-10-batches-bin"),
        mirrors=("https://www.cs.toronto.edu/~kriz/",),
        n_classes=10,
        archive=FileSpec(
            "cifar-10-binary.tar",
            (),
            "",
            170_052_171,
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            is_idx=False,
        ),
    ),
    "cifar100": FileSet(
        name="cifar100",
        title="CIFAR-100 (binary version)",
        files=(
            FileSpec(
                "train.bin",
                (50_000, 3_074),
                "f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29",
                is_idx=False,
            ),
            FileSpec(
                "test.bin",
                (10_000, 3_074),
                "d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a",
                is_idx=False,
            ),
        ),
        folders=("cifar100", "cifar-100-binary", "cifar100/cifar-100-binary"),
        mirrors=("https://www.cs.toronto.edu/~kriz/",),
        n_classes=100,
        archive=FileSpec(
            "cifar-100-binary.tar",
            (),
            "",
            168_513_733,
            "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            is_idx=False,
        ),
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
    # The plays of Shakespeare that A. Karpathy put together, 2015: public domain, the usual text for small networks.
    "tinyshakespeare": FileSet(
        name="tinyshakespeare",
        title="Tiny Shakespeare",
        files=(
            FileSpec(
                "input.txt",
                (1_115_394,),
                "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
                is_idx=False,
            ),
        ),
        folders=("tinyshakespeare",),
        mirrors=(),
        n_classes=65,
    ),
    # Pang, Lee, ACL 2005: sentences from film reviews; CC BY 4.0.
    "rt-polarity": FileSet(
        name="rt-polarity",
        title="Sentence polarity v1.0",
        files=(
            FileSpec(
                "rt-polarity.pos",
                (626_395,),
                "4134882974a28d0c7b5151256f0e33a6169984ee7372c279e673f1114f475d58",
                is_idx=False,
            ),
            FileSpec(
                "rt-polarity.neg",
                (612_506,),
                "2d11cfbc790f1cd96d78339f41ce53ced1efa83cd22d37d6788fa3fe3d17e2fd",
                is_idx=False,
            ),
        ),
        folders=("rt-polarity",),
        mirrors=(),
        n_classes=2,
    ),
}
