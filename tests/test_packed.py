"""Packed networks: the arithmetic coder, lossless files, their size, and files that are damaged or hostile."""

from __future__ import annotations

import math
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sparse_tools import NETWORKS, inputs_of, kill, lenet_5, lenet_300_100

import svd_numpy as svd
from svd_numpy.files.safe_arrays import CheckpointError
from svd_numpy.kernels.window import Window
from svd_numpy.sparse import ConvOp, DenseOp, Op, PoolOp, SparseModel, TakeOp, Weights
from svd_numpy.sparse.storage import packed
from svd_numpy.sparse.storage.coder import Context, Numbers, Reader, Writer, number
from svd_numpy.sparse.storage.layout import Budget, Layout, find_step

# ------------------------------------------------------------ the coder


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(-1, 3)), max_size=400))
def test_bits_come_back(bits: list[tuple[bool, int]]) -> None:
    def contexts() -> dict[int, Context | None]:
        return {-1: None, **{n: Context() for n in range(4)}}

    writer, known = Writer(), contexts()
    for bit, context in bits:
        assert writer.bit(known[context], bit) == bit
    reader, known = Reader(writer.finish()), contexts()
    assert [reader.bit(known[context]) for _, context in bits] == [bit for bit, _ in bits]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 40), max_size=60))
def test_numbers_come_back(values: list[int]) -> None:
    writer, seen = Writer(), Numbers()
    for value in values:
        number(writer, seen, value)
    reader, seen = Reader(writer.finish()), Numbers()
    assert [number(reader, seen) for _ in values] == values


@pytest.mark.parametrize("carry", [0.0, 1.0, 0.999])
def test_carries_reach_far_back(carry: float) -> None:
    """Many bits as expected give long runs of bytes 0 or 255; an unexpected bit then carries through them."""
    rng = np.random.default_rng(3)
    bits = [int(rng.random() < carry) for _ in range(30_000)] + [1 - round(carry)] * 3
    writer, context = Writer(), Context()
    for bit in bits:
        writer.bit(context, bit)
    reader, context = Reader(writer.finish()), Context()
    assert [reader.bit(context) for _ in bits] == bits


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01, 0.001])
def test_bits_cost_their_entropy(share: float) -> None:
    count = 20_000
    ones = round(share * count)
    bits = np.random.default_rng(0).permutation(np.arange(count) < ones)
    writer, context = Writer(), Context()
    for bit in bits:
        writer.bit(context, bit)
    entropy = -count * (share * math.log2(share) + (1 - share) * math.log2(1 - share))
    # learning a probability costs log2(count) / 2 + 1 bits (Krichevsky and Trofimov); 16 are for whole bytes
    assert entropy - math.log2(count) < 8 * len(writer.finish()) < 1.002 * entropy + math.log2(count) / 2 + 1 + 16


def test_numbers_have_their_bounds() -> None:
    writer = Writer()
    number(writer, Numbers(), 1000)
    with pytest.raises(ValueError, match="number 1000, expected at most 999"):
        number(Reader(writer.finish()), Numbers(), high=999)
    with pytest.raises(ValueError, match="more than 34 bits"):
        number(Reader(b"\0" * 100), Numbers())  # all ones


@pytest.mark.parametrize(
    ("values", "step"),
    [([0.5, -1.75, 3.0], -2), ([0.0, 0.0], 0), ([96.0], 5), ([], 0), ([1.0, 2**-24], -24), ([1.0, 2**-25], None)],
)
def test_the_step_of_numbers(values: list[float], step: int | None) -> None:
    assert find_step(np.array(values, np.float32)) == step


# ------------------------------------------------------------ whole networks


def assert_equal_ops(one: Op, other: Op) -> None:
    assert type(one) is type(other)
    for field in fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, Weights):
            assert isinstance(b, Weights) and a.form == b.form and a.shape == b.shape
            pairs: list[tuple[Any, Any]] = [(a.values, b.values), (a.rows, b.rows), (a.starts, b.starts)]
        else:
            pairs = [(a, b)]
        for x, y in pairs:
            if isinstance(x, np.ndarray):
                assert x.dtype == y.dtype and np.array_equal(x, y), field.name
            else:
                assert x == y, field.name


@pytest.mark.parametrize("bits", [None, 5])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_packed_network_is_the_same_network(name: str, bits: int | None, tmp_path: Path) -> None:
    small = svd.compress(kill(NETWORKS[name](), 0.3), backend="numpy")
    if bits is not None:
        small = svd.quantise(small, bits)
    size = svd.save_packed(tmp_path / "net.svdz", small)
    assert size == (tmp_path / "net.svdz").stat().st_size
    found = svd.load_packed(tmp_path / "net.svdz", backend="numpy")
    assert len(found.ops) == len(small.ops) and found.likelihood == small.likelihood
    for one, other in zip(small.ops, found.ops, strict=True):
        assert_equal_ops(one, other)
    x = inputs_of(small, 8)
    assert np.array_equal(found.predict(x), small.predict(x))
    assert svd.pack(found) == (tmp_path / "net.svdz").read_bytes()


def test_the_backend_of_a_network_read() -> None:
    content = svd.pack(svd.compress(kill(lenet_5(), 0.3), backend="numpy"))
    for backend in ("numpy", "numba"):
        assert svd.unpack(content, backend).backend.name == backend
    with pytest.raises(ValueError, match="backend"):
        svd.unpack(content, "cuda")


def test_an_empty_network_packs() -> None:
    model = lenet_300_100()
    for layer in model.variational_layers:
        layer.log_sigma2[...] = 10
    small = svd.compress(model, backend="numpy")
    found = svd.unpack(svd.pack(small), "numpy")
    assert np.array_equal(found.predict(np.zeros((2, 60))), small.predict(np.zeros((2, 60))))


def test_the_file_is_about_as_small_as_information_allows() -> None:
    rng = np.random.default_rng(0)
    inputs, outputs, density = 400, 120, 0.02
    keep = rng.random((inputs, outputs)) < density
    codes = rng.choice([-4, -3, -2, -1, 1, 2, 3, 4], keep.shape)
    matrix = np.where(keep, codes / 8, 0).astype(np.float32)
    take = TakeOp("input", (inputs,), (inputs,), np.arange(inputs, dtype=np.int32), None)
    zeros, every = np.zeros(outputs, np.float32), np.arange(inputs, dtype=np.int32)
    dense = DenseOp("dense1", matrix.shape, every, Weights.from_matrix(matrix, "sparse"), zeros, False)
    size = len(svd.pack(SparseModel([take, dense], svd.Categorical(), "numpy")))
    share = keep.mean()
    entropy = keep.size * -(share * math.log2(share) + (1 - share) * math.log2(1 - share)) + 3 * keep.sum()
    assert entropy / 8 < size < 1.03 * entropy / 8 + 80  # shapes, names, step, checksum


def test_the_format_stays_the_same() -> None:
    """A file written when the format was made; a change of the format must raise the version."""
    content = bytes.fromhex(GOLDEN)
    found = svd.unpack(content, "numpy")
    assert svd.pack(found) == content
    x = np.array([[1, 2, 3, 4]], np.float32)
    hidden = 0.5 * 1 - 0.25 * 3 + 1, -0.75 * 4 + 0.5
    assert found.predict(x).tolist() == [[3 * hidden[0] - 2 * hidden[1], hidden[1] + 0.25]]
    assert isinstance(found.likelihood, svd.Gaussian) and found.likelihood.std == 0.3


GOLDEN = (  # two layers, of which each has statistics of its own
    "5356447a020d5ab20b60166665e66666661e502a88f3f87bfe34b6fae9ca49ee50ab48322e7bb56822d7dd8ab00709576b5364de01d6"
)


# ------------------------------------------------------------ damaged and hostile files


def signed(body: bytes) -> bytes:
    """A file with any body and the right checksum."""
    return packed.MAGIC + bytes([packed.VERSION]) + zlib.crc32(body).to_bytes(4, "big") + body


def test_every_damage_is_noticed(tmp_path: Path) -> None:
    content = svd.pack(svd.quantise(svd.compress(kill(lenet_300_100(), 0.1), backend="numpy"), 4))
    for at in range(len(content)):
        for damaged in (content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :], content[:at]):
            with pytest.raises(CheckpointError):
                svd.unpack(damaged, "numpy")
    with pytest.raises(CheckpointError, match="CRC-32"):
        svd.unpack(content + b"\0", "numpy")
    with pytest.raises(CheckpointError, match="format version 1"):
        svd.unpack(b"SVDz\x01" + content[5:], "numpy")
    with pytest.raises(CheckpointError, match="not a packed network"):
        svd.unpack(b"PK\x03\x04" + content[4:], "numpy")
    with pytest.raises(CheckpointError, match="cannot load"):
        svd.load_packed(tmp_path / "nothing.svdz")


def test_any_bytes_are_a_network_or_an_error_and_never_large() -> None:
    rng = np.random.default_rng(0)
    bodies = [rng.bytes(int(rng.integers(0, 400))) for _ in range(80)]
    real = svd.pack(svd.quantise(svd.compress(kill(lenet_5(), 0.2), backend="numpy"), 5))[9:]
    for _ in range(40):
        body = bytearray(real)
        for at in rng.integers(0, len(body) if rng.random() < 0.5 else 60, 3):
            body[at] = rng.integers(256)
        bodies.append(bytes(body))
    bodies += [bytes([fill]) * length for fill in (0, 255) for length in (0, 1, 7, 1000)]
    refused = 0
    tracemalloc.start()
    try:
        for body in bodies:
            try:
                svd.unpack(signed(body), "numpy")
            except CheckpointError:
                refused += 1
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert refused > 0.9 * len(bodies)
    assert most < 100e6


class Forger(Layout):
    """Writes a network with some of its numbers changed."""

    def __init__(self, forge: dict[str, Callable[[int], int]]) -> None:
        self.writer = Writer()
        super().__init__(self.writer, Budget(2**62))
        self.forge, self.met = forge, dict[str, int]()

    def whole(self, kind: str, value: int | None, high: int) -> int:
        assert value is not None
        key = f"{kind} {value}"
        self.met[key] = self.met.get(key, 0) + 1
        change = self.forge.pop(f"{key} #{self.met[key]}", None)
        super().whole(kind, value if change is None else change(value), 2**32 - 1)
        return value


# "<kind> <value> #<n>": the nth number of this kind and value is replaced by another.
HOSTILE: dict[str, tuple[dict[str, Callable[[int], int]], str]] = {
    "large images": ({"size 1 #1": lambda _: 2**20}, "in_shape"),
    "a place outside": ({"jump 1 #2": lambda _: 81}, "index 81, expected 0 to 80"),
    "more inputs than there are": ({"count 8 #1": lambda _: 9}, "at most 8"),
    "an unknown op": ({"kind 0 #1": lambda _: 7}, "at most 5"),
    "no taking op": ({"kind 0 #1": lambda _: 1}, "first op"),
    "another op that takes": ({"kind 2 #1": lambda _: 0}, "first op"),
    "no op": ({"ops 4 #1": lambda _: 0}, "no op"),
    "a long name": ({"name length 5 #1": lambda _: 10**6}, "at most 200"),
    "a letter": ({"letter 105 #1": lambda _: 200}, "decode"),
    "an unprintable letter": ({"letter 105 #1": lambda _: 7}, "printable"),
    "a step beyond float32": ({"step 156 #1": lambda _: 300}, "finite"),
    "a huge step": ({"step 156 #1": lambda _: 10**6}, "at most 320"),
    "a kernel of nothing": ({"size 5 #3": lambda _: 0}, "window of kernel"),
    "a huge kernel": ({"size 5 #3": lambda _: 1000}, "larger than the images"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused(case: str) -> None:
    forge, message = HOSTILE[case]
    forger = Forger(dict(forge))
    forger.likelihood(svd.Categorical())
    forger.network(hand_made().ops)
    assert not forger.forge, "nothing was forged"
    with pytest.raises(CheckpointError, match=message):
        svd.unpack(signed(forger.writer.finish()), "numpy")


def hand_made() -> SparseModel:
    """A small network whose numbers are multiples of 1/16."""
    rng = np.random.default_rng(1)

    def weights(inputs: int, outputs: int) -> Weights:
        matrix = np.where(rng.random((inputs, outputs)) < 0.4, rng.integers(1, 8, (inputs, outputs)) / 16, 0)
        return Weights.from_matrix(matrix, "sparse")

    def bias(outputs: int) -> np.ndarray:
        return (np.arange(outputs) / 16).astype(np.float32)

    take = TakeOp("input", (1, 9, 9), (9, 9, 1), np.arange(81, dtype=np.int32), None)
    conv = ConvOp("conv1", (5, 5, 1, 4), Window(9, 9, 1, (5, 5)), weights(25, 2), bias(2), True)
    pool = PoolOp("pool1", "max", Window(5, 5, 2, (2, 2), (2, 2)))
    inputs = np.arange(8, dtype=np.int32)
    dense = DenseOp("dense1", (8, 3), inputs, weights(8, 3), bias(3), False)
    return SparseModel([take, conv, pool, dense], svd.Categorical(), "numpy")


def test_a_few_bytes_cannot_ask_for_much_memory() -> None:
    """A few dozen bytes can describe 64 million inputs; they are refused before anything is allocated."""
    writer = Writer()
    layout = Layout(writer, Budget(2**62))
    layout.likelihood(svd.Categorical())
    layout.whole("ops", 2, 1000)
    layout.whole("kind", 0, 4)
    layout.text("input")
    layout.flag("images", True)
    layout.sizes((1024, 1024, 64), 3)
    layout.flag("images", True)
    layout.sizes((1024, 1024, 64), 3)
    content = signed(writer.finish())
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="too large for the file"):
            svd.unpack(content, "numpy")
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


def test_what_no_reader_accepts_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    small = hand_made()
    monkeypatch.setattr(packed, "_most_elements", lambda length: length)
    with pytest.raises(ValueError, match=r"take only \d+ bytes, a ratio that `unpack` refuses"):
        svd.pack(small)


def test_wrong_calls(tmp_path: Path) -> None:
    small = hand_made()
    with pytest.raises(ValueError, match=r"ending in \.svdz"):
        svd.save_packed(tmp_path / "net.bin", small)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(TypeError, match="expected a SparseModel"):
        svd.pack(lenet_5())
    with pytest.raises(TypeError, match="expected a bytes"):
        svd.unpack("net.svdz")
