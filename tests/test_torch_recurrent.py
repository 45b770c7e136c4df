"""PyTorch as an oracle: outputs and gradients of its LSTM, GRU and embeddings with the same weights; both ways."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import svd_numpy as svd
from svd_numpy.network.layers.base import Pass

torch = pytest.importorskip("torch")
UNITS, VOCABULARY = 11, 7


class Net(torch.nn.Module):  # type: ignore[misc, name-defined]
    def __init__(self, cell: Any, depth: int = 1) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(VOCABULARY, 5)
        self.rnn = cell(5, UNITS, num_layers=depth, batch_first=True)
        self.out = torch.nn.Linear(UNITS, 4)

    def forward(self, x: Any) -> Any:
        return self.out(self.rnn(self.embedding(x))[0])


def network(cell: Any, depth: int, steps: int) -> svd.Sequential:
    layers = [svd.Embedding(VOCABULARY, 5), *(cell(5 if i == 0 else UNITS, UNITS) for i in range(depth))]
    return svd.Sequential(*layers, svd.Dense(UNITS, 4), backend="numpy", dtype="float64", input_shape=(steps,))


CELLS = [(torch.nn.LSTM, svd.LSTM), (torch.nn.GRU, svd.GRU)]


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("cells", CELLS)
def test_outputs_and_gradients_are_those_of_torch(cells: Any, depth: int) -> None:
    torch.manual_seed(0)
    theirs, steps = Net(cells[0], depth).double(), 20
    ours = network(cells[1], depth, steps)
    names = None if depth == 1 else {"embedding1": "embedding", "dense1": "out", **{
        f"{ours.layers[1].kind}{i + 1}": f"rnn.l{i}" for i in range(depth)
    }}  # fmt: skip
    ours.init_from(svd.from_torch_state_dict(ours, theirs.state_dict(), names))
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, VOCABULARY, (6, steps)), rng.integers(0, 4, (6, steps))
    outputs = theirs(torch.as_tensor(x))
    np.testing.assert_allclose(ours.predict(x), outputs.detach().numpy(), rtol=1e-5, atol=1e-7)
    torch.nn.functional.cross_entropy(outputs.reshape(-1, 4), torch.as_tensor(y.ravel())).backward()
    _, grads = ours.loss_and_grads(x, y, 10)
    expected = svd.from_torch_state_dict(ours, {n: p.grad for n, p in theirs.named_parameters()}, names)
    for name, grad in grads.items():
        if name.endswith("bias") and not name.startswith("dense"):  # a sum of two, each with its gradient
            columns = ours.parameters[name].size
            both = expected[name] / 2
            if "gru" in name:
                both[2 * UNITS :] *= 2
            np.testing.assert_allclose(grad[:columns], both, rtol=1e-6, atol=1e-9, err_msg=name)
        else:
            np.testing.assert_allclose(grad, expected[name], rtol=1e-6, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("cells", CELLS)
def test_a_module_and_float32_reproduce_torch_to_1e_5(cells: Any) -> None:
    torch.manual_seed(1)
    theirs, steps = Net(cells[0]), 30
    layers = svd.VariationalEmbedding(VOCABULARY, 5), cells[1](5, UNITS), svd.VariationalDense(UNITS, 4, log_sigma2=-15)
    ours = svd.Sequential(*layers, input_shape=(steps,), threshold=20)
    ours.init_from(svd.from_torch_state_dict(ours, theirs))
    x = np.random.default_rng(0).integers(0, VOCABULARY, (6, steps))
    np.testing.assert_allclose(ours.predict(x), theirs(torch.as_tensor(x)).detach().numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cells", CELLS)
def test_weights_go_back_to_torch(cells: Any) -> None:
    ours = network(cells[1], 1, 4)
    for array in ours.parameters.values():
        array += 0.1 * np.random.default_rng(0).standard_normal(array.shape)
    state = {name: torch.as_tensor(array) for name, array in svd.torch_state_dict(ours).items()}
    theirs = Net(cells[0])
    places = {"0": "embedding", "1": "rnn", "2": "out"}
    theirs.load_state_dict({places[n.partition(".")[0]] + "." + n.partition(".")[2]: a for n, a in state.items()})
    x = np.random.default_rng(0).integers(0, VOCABULARY, (6, 4))
    np.testing.assert_allclose(ours.predict(x), theirs(torch.as_tensor(x)).detach().numpy(), rtol=1e-5, atol=1e-5)


def test_a_sample_of_the_weights_has_the_gradients_of_autograd() -> None:
    """W = theta + sigma * noise, shared by all steps: the published noise model, differentiated by torch."""
    layers = svd.VariationalLSTM(5, UNITS), svd.Dense(UNITS, 4)
    ours = svd.Sequential(*layers, backend="numpy", dtype="float64", input_shape=(20, 5))
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(3, 20, 5)), rng.integers(0, 4, (3, 20))
    ours.parameters["lstm1.log_sigma2"][...] = rng.uniform(-5, -1, ours.parameters["lstm1.log_sigma2"].shape)
    _, grads = ours.loss_and_grads(x, y, 10, kl_weight=0.0, step=4)
    run = Pass(ours.backend, seed=ours.seed, step=4)
    noise = torch.as_tensor(ours.backend.noise(run.noise_key(0), 5 + UNITS, 4 * UNITS))
    theta, log_sigma2, bias, out, out_bias = (
        torch.tensor(array, requires_grad=True) for array in ours.parameters.values()
    )
    w = theta + torch.exp(log_sigma2 / 2) * noise
    h = c = torch.zeros(3, UNITS, dtype=torch.float64)
    logits = []
    for t in range(20):
        i, f, g, o = torch.chunk(torch.as_tensor(x[:, t]) @ w[:5] + h @ w[5:] + bias, 4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        logits.append(h @ out + out_bias)
    torch.nn.functional.cross_entropy(torch.stack(logits, 1).reshape(-1, 4), torch.as_tensor(y.ravel())).backward()
    for (name, grad), tensor in zip(grads.items(), (theta, log_sigma2, bias, out, out_bias), strict=True):
        np.testing.assert_allclose(grad, tensor.grad.numpy(), rtol=1e-6, atol=1e-10, err_msg=name)


def test_two_directions_are_refused() -> None:
    module = torch.nn.LSTM(5, UNITS, bidirectional=True)
    model = svd.Sequential(svd.LSTM(5, UNITS), input_shape=(4, 5))
    with pytest.raises(svd.SvdValueError, match="in one direction"):
        svd.from_torch_state_dict(model, module)
