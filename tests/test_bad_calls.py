"""Every public entry against arguments that make no sense: a clear error, and nothing changed.

Each case is (name, call, words). The error must be ours, a ValueError or a TypeError too, and its text must have all
the words: what was got, and what was expected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import N_CLASSES, bits, make_config, make_data, make_net, tree

import svd_numpy as svd
from svd_numpy.data import Dataset
from svd_numpy.files.safe_arrays import save_model
from svd_numpy.kernels import get_backend
from svd_numpy.kernels.priors import kl_divergence
from svd_numpy.network.layers import layer_from_config
from svd_numpy.network.sparsity import log_alpha, measure_sparsity, sparsify

NAN, INF = float("nan"), float("inf")


@dataclass
class World:
    """A model, its data and a run folder, all of which a bad call must leave alone."""

    model: svd.Sequential
    data: Dataset
    run_dir: Path

    @property
    def x(self) -> Any:
        """Good inputs (110, 12)."""
        return self.data.x_train

    @property
    def y(self) -> Any:
        """Good labels (110,)."""
        return self.data.y_train

    def with_data(self, **changes: Any) -> Dataset:
        """Return the data with other arrays."""
        own = {name: getattr(self.data, name) for name in ("x_train", "y_train", "x_test", "y_test")}
        n_classes = changes.pop("n_classes", N_CLASSES)
        return Dataset("own", **(own | changes), image_shape=None, n_classes=n_classes, source="made here")

    def fit(self, data: Any = None, config: Any = None, **options: Any) -> Any:
        """Train the model in the run folder."""
        data = self.data if data is None else data
        options = {"progress": False, "run_dir": self.run_dir, **options}
        return svd.fit(self.model, data, config or make_config(), **options)

    def train_mnist(self, **changes: Any) -> Any:
        """Train on the digits, with one argument changed."""
        options = {
            "dataset": "digits",
            "epochs": 1,
            "backend": "numpy",
            "run_dir": self.run_dir,
            "progress": False,
        }
        return svd.train_mnist(**(options | changes))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(make_net(), make_data(), tmp_path / "run")
    before = bits(made.model), made.model.config(), made.data.x_train.tobytes()
    yield made
    assert (bits(made.model), made.model.config(), made.data.x_train.tobytes()) == before
    assert not made.run_dir.exists() and tree(tmp_path).keys() <= {"other.safetensors"}


Case = tuple[str, Callable[[World], Any], tuple[str, ...]]


def changed(x: Any, at: tuple[int, ...], value: Any) -> Any:
    x = x.copy()
    x[at] = value
    return x


# What `predict`, `sample`, `loss` and the like must refuse as inputs: name, change of good inputs, words.
BAD_INPUTS: list[tuple[str, Callable[[Any], Any], tuple[str, ...]]] = [
    ("columns", lambda x: x[:, :5], ("x", "(110, 5)", "expected (B, 12)")),
    ("one example", lambda x: x[0], ("(12,)", "expected (B, 12)", "x[None]")),
    ("three axes", lambda x: x[None], ("(1, 110, 12)", "expected (B, 12)")),
    ("scalar", lambda x: 3.0, ("()", "expected (B, 12)")),
    ("empty list", lambda x: [], ("(0,)", "expected (B, 12)")),
    ("ragged rows", lambda x: [[1.0, 2.0], [3.0]], ("got a list that is not an array", "inhomogeneous")),
    ("int64", lambda x: x.astype(np.int64), ("int64", "expected uint8")),
    ("bool", lambda x: x > 0, ("bool", "expected uint8")),
    ("complex", lambda x: x + 0j, ("complex", "expected uint8")),
    ("text", lambda x: x.astype(str), ("dtype <U", "expected uint8")),
    ("objects", lambda x: np.full(x.shape, object()), ("object", "expected uint8")),
    ("masked", lambda x: np.ma.masked_where(np.arange(1320).reshape(110, 12) == 40, x), ("row 3", "masked value")),
    ("missing", lambda x: changed(x.astype(object), (7, 3), None), ("example 7", "NaN", "expected finite")),
    ("none", lambda x: None, ("object", "expected uint8")),
    ("nan", lambda x: changed(x, (7, 3), NAN), ("example 7", "NaN", "expected finite")),
    ("infinity", lambda x: changed(x, (0, 0), -INF), ("example 0", "expected finite")),
    ("huge", lambda x: changed(x, (109, 11), 1e16), ("example 109", "1e+15", "expected finite")),
    (
        "huge float64",
        lambda x: changed(x.astype(np.float64), (1, 1), 1e300),
        ("example 1", "expected finite"),
    ),
]

BAD_LABELS: list[tuple[str, Callable[[Any], Any], tuple[str, ...]]] = [
    ("too few", lambda y: y[:-1], ("y", "(109,)", "expected (110,)")),
    ("column", lambda y: y[:, None], ("(110, 1)", "expected (110,)")),
    ("one-hot", lambda y: np.eye(3, dtype=int)[y], ("(110, 3)", "expected (110,)")),
    ("floats", lambda y: y.astype(float), ("float64", "expected whole-number")),
    ("bools", lambda y: y > 0, ("bool", "expected whole-number")),
    ("out of range", lambda y: changed(y, (5,), 3), ("label 3 at index 5", "expected 0..2")),
    ("negative", lambda y: changed(y, (5,), -1), ("label -1 at index 5", "expected 0..2")),
    ("none", lambda y: None, ("object", "expected whole-number")),
    ("missing", lambda y: changed(y.astype(object), (4,), None), ("label 4", "missing", "expected 0..2")),
    ("masked", lambda y: np.ma.masked_where(np.arange(110) == 9, y), ("row 9", "masked value")),
]

USES_OF_INPUTS: dict[str, Callable[[World, Any], Any]] = {
    "predict": lambda w, x: w.model.predict(x),
    "predict_proba": lambda w, x: w.model.predict_proba(x),
    "sample": lambda w, x: w.model.sample(x, 2),
    "loss": lambda w, x: w.model.loss(x, w.y, 110),
    "loss_and_grads": lambda w, x: w.model.loss_and_grads(x, w.y, 110),
    "evaluate": lambda w, x: svd.evaluate(w.model, x, w.y),
}
USES_OF_LABELS: dict[str, Callable[[World, Any], Any]] = {
    "loss": lambda w, y: w.model.loss(w.x, y, 110),
    "loss_and_grads": lambda w, y: w.model.loss_and_grads(w.x, y, 110),
    "evaluate": lambda w, y: svd.evaluate(w.model, w.x, y),
}


def on_inputs(use: Callable[[World, Any], Any], change: Callable[[Any], Any]) -> Callable[[World], Any]:
    return lambda w: use(w, change(w.x))


def on_labels(use: Callable[[World, Any], Any], change: Callable[[Any], Any]) -> Callable[[World], Any]:
    return lambda w: use(w, change(w.y))


CASES: list[Case] = [
    (f"{use} x {name}", on_inputs(USES_OF_INPUTS[use], change), words)
    for name, change, words in BAD_INPUTS
    for use in USES_OF_INPUTS
] + [
    (f"{use} y {name}", on_labels(USES_OF_LABELS[use], change), words)
    for name, change, words in BAD_LABELS
    for use in USES_OF_LABELS
]


def layer(**options: Any) -> svd.VariationalDense:
    return svd.VariationalDense(**({"in_features": 4, "out_features": 2} | options))


def net(*layers: Any, **options: Any) -> svd.Sequential:
    return svd.Sequential(*(layers or (layer(),)), **({"backend": "numpy"} | options))


def anything(*arguments: Any) -> tuple[Any, ...]:
    """Arguments of types that the checker would refuse, too."""
    return arguments


def bad_numbers(name: str, call: Callable[[Any], Any], *values: Any, whole: bool = False) -> list[Case]:
    """Values that no numeric argument takes, and those given."""
    values = (*values, NAN, INF, "3", None, True, [1]) + ((1.5, -1) if whole else ())
    return [(f"{name}={value!r}", partial(ignoring_world, call, value), (str(value), "expected")) for value in values]


def ignoring_world(call: Callable[[Any], Any], value: Any, _: World) -> Any:
    return call(value)


CASES += [
    # layers
    *bad_numbers("in_features", lambda v: layer(in_features=v), 0, whole=True),
    *bad_numbers("out_features", lambda v: svd.Dense(4, v), 0, whole=True),
    *(c for c in bad_numbers("theta_std", lambda v: layer(theta_std=v), -1, 1e30) if "None" not in c[0]),
    *bad_numbers("log_sigma2", lambda v: layer(log_sigma2=v), -21, 11),
    ("bias", lambda w: layer(bias="no"), ("bias", "'no'", "expected True or False")),
    ("layer name", lambda w: layer(name=3), ("name", "got 3", "expected a str")),
    ("layer name", lambda w: layer(name="a\x1b[31m"), ("name", "x1b", "expected printable text")),
    ("layer type", lambda w: layer_from_config({"type": "Conv9"}), ("'Conv9'", "expected one of")),
    # Sequential
    ("no layer", lambda w: svd.Sequential(), ("got no layer", "expected at least one")),
    ("no layer object", lambda w: net(3), ("got 3", "expected layers")),
    ("list of layers", lambda w: net([layer()]), ("expected layers",)),
    ("relu first", lambda w: net(svd.ReLU()), ("ReLU", "give input_shape=(C, H, W)")),
    ("sizes", lambda w: net(layer(), layer()), ("(B, 2)", "expected (B, 4)")),
    ("twice", lambda w: net(*[layer(out_features=4)] * 2), ("appears twice", "one object per place")),
    ("names", lambda w: net(layer(name="a", out_features=4), layer(name="a")),
     ("'a'", "expected all different")),
    ("prior", lambda w: net(prior="horseshoe"), ("'horseshoe'", "expected one of", "'ard'")),
    ("prior type", lambda w: net(prior=3), ("3", "expected one of")),
    ("backend", lambda w: net(backend="tpu"), ("'tpu'", "expected one of", "numba")),
    ("backend type", lambda w: net(backend=None), ("None", "expected one of")),
    ("dtype", lambda w: net(dtype="float16"), ("float16", "expected float32 or float64")),
    ("dtype word", lambda w: net(dtype="single float"), ("'single float'", "expected float32 or float64")),
    ("dtype numba", lambda w: net(dtype="float64", backend="numba"),
     ("float64", "computes in float32", "numpy")),
    ("likelihood", lambda w: net(likelihood="poisson"), ("'poisson'", "expected one of")),
    ("likelihood type", lambda w: net(likelihood=[1]), ("[1]", "expected one of")),
    ("mean shape", lambda w: net(input_mean=np.zeros(3)), ("input_mean", "(3,)", "expected (4,)")),
    ("mean nan", lambda w: net(input_mean=[0, 0, 0, NAN]), ("input_mean", "NaN", "expected finite")),
    ("mean text", lambda w: net(input_mean="mean"), ("input_mean", "dtype <U4", "expected numbers")),
    *bad_numbers("model seed", lambda v: net(seed=v), 2**70, whole=True),
    *bad_numbers("threshold", lambda v: net(threshold=v), 61, -61, 1e300),
    *bad_numbers("std", lambda v: svd.Gaussian(v), 0, -1, 1e-9, 1e9),
    # numbers of predict, sample and loss
    *[
        (f"{name} {words[0]}", lambda w, c=call, v=value: c(w, v), (*words, "expected"))
        for name, call, values in (
            ("n", lambda w, v: w.model.sample(w.x, v), (0, -1, 2.0, True, "3", None, 10**9)),
            ("n_train", lambda w, v: w.model.loss(w.x, w.y, v), (0, -5, 110.0, True, None, NAN)),
            ("kl_weight", lambda w, v: w.model.loss(w.x, w.y, 110, v), (-1, NAN, INF, "1", None, True)),
            ("step", lambda w, v: w.model.loss(w.x, w.y, 110, step=v), (-1, 0.5, True, 2**32, 2**70)),
        )
        for value in values
        for words in [(f"{name}: got {value!r}",)]
    ],
    # init_from
    ("init nothing", lambda w: w.model.init_from({}), ("got []", "expected some of", "dense1.theta")),
    ("init unknown", lambda w: w.model.init_from({"fc.weight": 1}), ("fc.weight", "expected some of")),
    ("init number", lambda w: w.model.init_from(3), ("got 3", "expected a Mapping")),
    ("init path", lambda w: w.model.init_from("model.safetensors"),
     ("model.safetensors", "expected a Mapping")),
    ("init shape", lambda w: w.model.init_from({"dense1.theta": np.zeros((8, 12))}),
     ("(8, 12)", "expected (12, 8)")),
    ("init scalar", lambda w: w.model.init_from({"dense2.bias": 1.0}), ("()", "expected (3,)")),
    ("init text", lambda w: w.model.init_from({"dense2.bias": ["a"] * 3}), ("dtype <U1", "expected numbers")),
    ("init second bad", lambda w: w.model.init_from({"dense1.bias": np.ones(8), "dense2.bias": [0, NAN, 0]}),
     ("dense2.bias", "NaN", "expected finite")),
    ("init beyond float32", lambda w: w.model.init_from({"dense2.bias": np.full(3, 1e200)}),
     ("dense2.bias", "1e+15", "expected finite")),
    ("init log_sigma2", lambda w: w.model.init_from({"dense1.log_sigma2": np.full((12, 8), 100.0)}),
     ("100.0", "expected [-20, 10]")),
    ("init other net", lambda w: w.model.init_from(net()), ("(4, 2)", "expected (12, 8)")),
    # priors, log_alpha, sparsify, measure_sparsity
    ("kl dtype", lambda w: kl_divergence(np.zeros(3, int), np.zeros(3)), ("int64", "expected float32")),
    ("kl list", lambda w: kl_divergence(*anything([0], [1])), ("int64", "expected float32")),
    ("kl dtypes", lambda w: kl_divergence(np.zeros(3, "f4"), np.zeros(3)), ("float64", "expected one dtype")),
    ("kl shapes", lambda w: kl_divergence(np.zeros(3), np.zeros(4)), ("(4,)", "expected equal")),
    ("kl nan", lambda w: kl_divergence(np.array([NAN]), np.zeros(1)),
     ("1 non-finite", "expected all finite")),
    ("kl prior", lambda w: kl_divergence(np.zeros(3), np.zeros(3), "flat"), ("'flat'", "expected one of")),
    ("log_alpha model", lambda w: log_alpha(*anything("net")), ("'net'", "expected a Sequential")),
    ("measure model", lambda w: measure_sparsity(*anything(None)), ("None", "expected a Sequential")),
    ("sparsify model", lambda w: sparsify(*anything({})), ("{}", "expected a Sequential")),
    *[
        (f"{call.__name__} threshold {value!r}", lambda w, c=call, v=value: c(w.model, v),
         ("threshold", str(value), "expected"))
        for call in (measure_sparsity, sparsify)
        for value in (NAN, INF, "3", True, 1000, -1000)
    ],
    # from_config
    ("config none", lambda w: svd.Sequential.from_config(*anything(None)), ("config", "None", "expected a Mapping")),
    ("config empty", lambda w: svd.Sequential.from_config({}), ("config: lacks", "layers", "threshold", "expected")),
    *[
        (f"config {key}={value!r}", lambda w, k=key, v=value: svd.Sequential.from_config({**w.model.config(), k: v}),
         ())
        for key, values in (
            ("layers", (None, 3, "net", {}, [3], [None], [{}])),
            ("likelihood", (None, "categorical", {}, {"name": "categorical", "std": 3}, {1: 2})),
            ("input_shape", (None, 12)),
        )
        for value in values
    ],
    # scores, thresholds, uncertainty
    *[(f"evaluate {value!r}", lambda w, v=value: svd.evaluate(v, w.x, w.y), ("model", "expected a Sequential"))
      for value in anything(None, 3, "net", {})],
    *[(f"auroc {value!r}", lambda w, v=value: svd.auroc(v, [1.0]), ("inside",))
      for value in anything(None, "a", {}, [[1], [2, 3]], [None], [1j], [], 3, [NAN])],
    *[(f"decompose {value!r}", lambda w, v=value: svd.decompose(v), ("probabilities",))
      for value in anything(None, "a", {}, [[1], [2, 3]], 3, [[0.5, 0.5]])],
    *[(f"calibration {value!r}", lambda w, v=value: svd.calibration(v, [0]), ("probabilities",))
      for value in anything(None, "a", {}, [[1], [2, 3]], 3, [0.5, 0.5])],
    ("calibration labels", lambda w: svd.calibration([[0.5, 0.5]], [None]), ("labels", "expected")),
    *[(f"thresholds {value!r}", lambda w, v=value: svd.threshold_curve(w.model, w.data.split(9), v), ("thresholds",))
      for value in anything(3, "ab", [None], ["3"], [])],
    *[(f"density model {value!r}", lambda w, v=value: svd.threshold_for_density(v, 0.5), ("expected a Sequential",))
      for value in anything(None, 3, {})],
    *[(f"load_arrays {value!r}", lambda w, v=value: w.model.load_arrays(v), ("arrays", "expected a Mapping"))
      for value in anything(None, 3, [])],
    *[(f"original {value!r}", lambda w, v=value: net(original=v), ("original", "expected"))
      for value in anything(3, "a", {"dense1": 3}, {"dense1": (1, 2, 3)}, {"dense1": (-1, 2)}, {"dense1": ("a", 2)})],
    ("mean ragged", lambda w: net(input_mean=[[1, 2], [3]]), ("input_mean", "not an array")),
    *[(f"ops {value!r}", lambda w, v=value: svd.SparseModel(v, svd.Gaussian()), ("TakeOp", "compress"))
      for value in anything(None, 3, {}, {"a": 1}, [], (), "ops", np.zeros(0), np.array("s"))],
    # backends
    ("get_backend", lambda w: get_backend("torch"), ("'torch'", "expected one of")),
    ("get_backend type", lambda w: get_backend(*anything(3)), ("got 3", "expected one of")),
    ("get_backend dtype", lambda w: get_backend("numpy", int), ("int64", "expected float32 or float64")),
    ("get_backend dtype object", lambda w: get_backend("numpy", "f33"),
     ("'f33'", "expected float32 or float64")),
    # data
    ("load name", lambda w: svd.load("cifar99"), ("'cifar99'", "expected one of", "'digits'")),
    ("load type", lambda w: svd.load(3), ("got 3 of type int", "expected a str")),
    ("load folder type", lambda w: svd.load("mnist", 3), ("data_dir: got 3", "expected a path")),
    ("load folder", lambda w: svd.load("digits", "/nowhere/at/all"), ("/nowhere/at/all", "not a folder")),
    # TrainConfig
    *bad_numbers("epochs", lambda v: svd.TrainConfig(epochs=v), whole=True),
    *bad_numbers("batch_size", lambda v: svd.TrainConfig(batch_size=v), 0, whole=True),
    *bad_numbers("finetune_epochs", lambda v: svd.TrainConfig(finetune_epochs=v), whole=True),
    *bad_numbers("seed", lambda v: svd.TrainConfig(seed=v), whole=True),
    *bad_numbers("eval_every", lambda v: svd.TrainConfig(eval_every=v), whole=True),
    *bad_numbers("lr", lambda v: svd.TrainConfig(lr=v), -1e-3, 11),
    *bad_numbers("finetune_lr", lambda v: svd.TrainConfig(finetune_lr=v), -1e-3, 11),
    *bad_numbers("beta1", lambda v: svd.TrainConfig(beta1=v), -0.1, 1.0),
    *bad_numbers("beta2", lambda v: svd.TrainConfig(beta2=v), -0.1, 1.0),
    *bad_numbers("epsilon", lambda v: svd.TrainConfig(epsilon=v), 0, 2),
    *bad_numbers("finetune_threshold", lambda v: svd.TrainConfig(finetune_threshold=v), 99),
    *bad_numbers("lr_schedule", lambda v: svd.TrainConfig(lr_schedule=v)),
    *bad_numbers("kl_schedule", lambda v: svd.TrainConfig(kl_schedule=v)),
    ("kl_schedule pair", lambda w: svd.TrainConfig(kl_schedule=((0, "a"),)), ("'a'", "expected pairs")),
    ("astronomical lr", lambda w: svd.TrainConfig(lr=10**400), ("lr: got 1000", "expected a finite number")),
    ("train_mask", lambda w: svd.TrainConfig(train_mask=1),
     ("train_mask", "got 1", "expected True or False")),
    # fit
    ("fit model", lambda w: svd.fit("net", w.data), ("'net'", "expected a Sequential")),
    ("fit data", lambda w: w.fit((w.x, w.y)), ("data", "tuple", "expected a Dataset")),
    ("fit config", lambda w: w.fit(config={"epochs": 3}), ("{'epochs': 3}", "expected a TrainConfig")),
    ("fit empty config", lambda w: svd.fit(w.model, w.data, {}, run_dir=w.run_dir),
     ("{}", "expected a TrainConfig")),
    ("fit callbacks", lambda w: w.fit(callbacks=["print"]), ("'print'", "expected a list of functions")),
    ("fit one callback", lambda w: w.fit(callbacks=print), ("print", "expected a list of functions")),
    ("fit resume", lambda w: w.fit(resume="yes"), ("'yes'", "expected True or False")),
    ("fit nothing to resume", lambda w: w.fit(resume=True),
     ("run", "has no checkpoint", "expected a run folder")),
    ("fit resume nowhere", lambda w: w.fit(resume=True, run_dir=None), ("resume=True", "needs run_dir")),
    ("fit run_dir", lambda w: w.fit(run_dir=3), ("run_dir", "got 3", "expected a path")),
    ("fit progress", lambda w: w.fit(progress="bar"), ("progress", "'bar'", "expected True or False")),
    ("fit classes", lambda w: w.fit(w.with_data(n_classes=4)), ("4 classes", "3 outputs")),
    ("fit columns", lambda w: w.fit(w.with_data(x_train=w.x[:, :5], x_test=w.x[:, :5], y_test=w.y)),
     ("5 inputs", "expects 12")),
    ("fit nan", lambda w: w.fit(w.with_data(x_train=changed(w.x, (3, 3), NAN))),
     ("x_train", "example 3", "expected finite")),
    ("fit test nan", lambda w: w.fit(w.with_data(x_test=changed(w.x, (3, 3), INF), y_test=w.y)),
     ("x_test", "example 3", "expected finite")),
    ("fit no data", lambda w: w.fit(w.with_data(x_train=w.x[:0], y_train=w.y[:0])),
     ("x_train", "no example", "expected")),
    ("fit ints", lambda w: w.fit(w.with_data(x_train=w.x.astype(int))),
     ("x_train", "int64", "expected uint8")),
    ("fit targets", lambda w: w.fit(w.with_data(y_train=w.y / 2, y_test=w.y / 2, x_test=w.x, n_classes=0)),
     ("float64", "expected whole-number")),
    # train_mnist
    ("arch", lambda w: w.train_mnist(arch="vgg"), ("arch", "'vgg'", "expected one of", "lenet-300-100")),
    ("arch type", lambda w: w.train_mnist(arch=300), ("arch", "300", "expected one of")),
    ("recipe", lambda w: w.train_mnist(recipe="best"), ("recipe", "'best'", "expected one of", "paper")),
    ("dataset", lambda w: w.train_mnist(dataset="imagenet"), ("'imagenet'", "expected one of", "'digits'")),
    ("dataset table", lambda w: w.train_mnist(dataset="diabetes"), ("'diabetes'", "expected images")),
    ("data_dir", lambda w: w.train_mnist(data_dir="/nowhere/at/all"), ("/nowhere/at/all", "not a folder")),
    ("train backend", lambda w: w.train_mnist(backend="tpu"), ("'tpu'", "expected one of")),
    ("train resume", lambda w: w.train_mnist(resume=1), ("resume", "got 1", "expected True or False")),
    ("train resume nowhere", lambda w: w.train_mnist(resume=True, run_dir=None),
     ("resume=True", "needs run_dir")),
    ("train run_dir", lambda w: w.train_mnist(run_dir=3), ("run_dir", "got 3", "expected a path")),
    ("train init_from", lambda w: w.train_mnist(init_from=3), ("got 3", "expected a Mapping")),
    ("train init_from net", lambda w: w.train_mnist(init_from=w.model), ("(12, 8)", "expected (784, 300)")),
    ("train init_from file", lambda w: w.train_mnist(init_from="/nowhere/a.safetensors"),
     ("/nowhere/a.safetensors", "No such file")),
    ("train seeds none", lambda w: w.train_mnist(seeds=[]), ("seeds: got none", "expected whole numbers", "range(16)")),
    ("train seeds number", lambda w: w.train_mnist(seeds=3), ("seeds: got 3", "expected whole numbers", "range(16)")),
    ("train seeds text", lambda w: w.train_mnist(seeds="012"), ("seeds: got '012'", "expected whole numbers")),
    ("train seeds float", lambda w: w.train_mnist(seeds=[0, 1.5]), ("seeds: got 1.5", "expected a whole number")),
    ("train seeds negative", lambda w: w.train_mnist(seeds=[0, -1]), ("seeds: got -1", "expected a whole number >= 0")),
    ("train seeds twice", lambda w: w.train_mnist(seeds=[2, 1, 2]), ("seeds: got [2] more than once", "expected")),
    ("train seeds and seed", lambda w: w.train_mnist(seed=4, seeds=[1]), ("seed: got 4 and seeds", "leave one")),
    ("train kl", lambda w: w.train_mnist(kl_weight=-1), ("kl_weight: got -1", "finite number in [0, 1000]")),
    ("train kl nan", lambda w: w.train_mnist(kl_weight=(1, NAN)), ("kl_weight: got nan", "finite number")),
    ("train kl none", lambda w: w.train_mnist(kl_weight=()), ("kl_weight: got none", "expected numbers", "(0.5,")),
    ("train kl twice", lambda w: w.train_mnist(kl_weight=(1, 2, 1)), ("kl_weight: got [1] more than once", "expected")),
    ("train kl text", lambda w: w.train_mnist(kl_weight="1"), ("kl_weight: got '1'", "expected numbers")),
    ("train kl dropout", lambda w: w.train_mnist(kl_weight=2, kind="dropout"), ("kl_weight: got 2", "has no KL")),
    ("train seeds resume", lambda w: w.train_mnist(seeds=[1], resume=True), ("resume", "holds none of these runs")),
    ("train callbacks", lambda w: w.train_mnist(callbacks=[3]), ("got [3]", "expected a list of functions")),
    ("train progress", lambda w: w.train_mnist(progress=None),
     ("progress", "None", "expected True or False")),
    *[
        (f"train {name}={value!r}", lambda w, n=name, v=value: w.train_mnist(**{n: v}),
         (f"{name}: got", str(value), "expected"))
        for name, values in (
            ("epochs", (0, -1, 2.0, True, "3")),
            ("batch_size", (0, -1, 2.0, True, "3")),
            ("seed", (-1, 2.0, True, "3", None)),
            ("eval_every", (-1, 2.0, True, "3", None)),
        )
        for value in values
    ],
    # files
    ("save suffix", lambda w: w.model.save(w.run_dir / "a.npz"),
     ("a.npz", "expected a name ending in .safetensors")),
    ("load missing", lambda w: svd.Sequential.load(w.run_dir / "a.safetensors"),
     ("a.safetensors", "No such file")),
    ("load a number", lambda w: svd.Sequential.load(3), ("path: got 3 of type int", "expected a path")),
    ("save to a number", lambda w: w.model.save(3), ("path: got 3 of type int", "expected a path")),
    ("load backend", lambda w: svd.Sequential.load(w.run_dir, backend="tpu"), ("'tpu'", "expected one of")),
]  # fmt: skip


@pytest.mark.parametrize(("call", "words"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_senseless_call_is_refused_with_reason(
    world: World, call: Callable[[World], Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(svd.SvdError) as caught:
        call(world)
    assert isinstance(caught.value, ValueError | TypeError)
    text = str(caught.value)
    for word in words:
        assert word in text, text
    assert "\n\n" not in text


def test_a_file_of_something_else_is_no_network(world: World) -> None:
    path = world.run_dir.parent / "other.safetensors"
    config: Mapping[str, Any] = world.model.config()
    contents: list[tuple[dict[str, Any], Mapping[str, Any]]] = [
        ({}, {}),
        ({}, config),
        ({"a": np.zeros(3)}, config),
        (world.model.arrays(), {}),
        (world.model.arrays(), {**config, "layers": []}),
        (world.model.arrays(), {**config, "layers": [{"type": "Conv9"}]}),
        (world.model.arrays(), {**config, "layers": 3}),
        (world.model.arrays(), {**config, "prior": "flat"}),
        (world.model.arrays(), {**config, "likelihood": {"name": "categorical", "std": 3}}),
        (world.model.arrays(), {**config, "threshold": None}),
        (world.model.arrays(), make_net(seed=3, dtype="float64").config() | {"dtype": "int8"}),
        (svd.Sequential(layer(), backend="numpy").arrays(), config),
    ]
    for arrays, state in contents:
        save_model(path, arrays, state)
        with pytest.raises(svd.CheckpointError, match=r"other\.safetensors holds no network"):
            svd.Sequential.load(path, backend="numpy")


def test_the_backend_named_in_the_environment_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SVD_NUMPY_BACKEND", "tpu")
    with pytest.raises(ValueError, match="'tpu', expected one of"):
        net(backend="auto")
    monkeypatch.setenv("SVD_NUMPY_BACKEND", "numpy")
    assert net(backend="auto").backend.name == "numpy"
