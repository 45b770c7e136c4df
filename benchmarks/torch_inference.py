"""The trained network as a dense one in PyTorch: eager and compiled.

The mean image is subtracted beforehand, out of the timed part; zeros are multiplied like any other number.
"""

from __future__ import annotations

import torch_peers  # noqa: F401  says what to install where PyTorch is missing

# isort: split
import math

import numpy as np
import torch
from inference_peers import images, network, step_of
from torch import nn
from workload import Step, Workload

import svd_numpy as svd
from svd_numpy.network.layers.weighted import Weighted


def module_of(model: svd.Sequential) -> nn.Sequential:
    """The same network; dense layers behind images want their inputs channels first."""
    modules: list[nn.Module] = []
    shape = model.inner_shape
    for layer in model.layers:
        if isinstance(layer, Weighted) and layer.window is None:
            theta = layer.theta
            if len(shape) == 3:
                theta = theta.reshape(*shape, -1).transpose(2, 0, 1, 3).reshape(math.prod(shape), -1)
            modules.append(_filled(nn.Linear(*theta.shape), theta.T, layer.bias))
            shape = layer.out_shape
        elif isinstance(layer, Weighted):
            window, theta = layer.window, layer.theta.reshape(layer.theta_shape)
            assert window is not None
            geometry = window.kernel, window.stride, window.padding, window.dilation
            conv = nn.Conv2d(window.channels, theta.shape[3], *geometry)
            modules.append(_filled(conv, theta.transpose(3, 2, 0, 1), layer.bias))
            shape = layer.out_shape
        elif isinstance(layer, svd.MaxPool2d):
            modules.append(nn.MaxPool2d(layer.kernel_size, layer.stride, layer.padding))
            shape = (*layer.window.out, layer.window.channels)
        elif isinstance(layer, svd.ReLU | svd.Flatten):
            modules.append(nn.ReLU() if isinstance(layer, svd.ReLU) else nn.Flatten())
        elif not isinstance(layer, svd.Dropout):
            raise ImportError(f"not written for {type(layer).__name__}")
    return nn.Sequential(*modules).eval()


def _filled(module: nn.Module, weight: np.ndarray, bias: np.ndarray) -> nn.Module:
    state = {"weight": np.ascontiguousarray(weight), "bias": bias}
    module.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in state.items()})
    return module


def _build(workload: Workload, batch: int, threads: int, compiled: bool) -> Step:
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    model = network()
    x = torch.from_numpy(images(workload, batch, model.in_shape) - model.input_mean.reshape(model.in_shape))
    run = module_of(model)
    call = torch.compile(run, dynamic=False) if compiled else run

    def predict(x: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return call(x)

    return step_of(predict, x, lambda y: float(y.abs().mean()))


def build_eager(workload: Workload, batch: int, threads: int) -> Step:
    """PyTorch as it comes."""
    return _build(workload, batch, threads, compiled=False)


def build_compiled(workload: Workload, batch: int, threads: int) -> Step:
    """Under `torch.compile`."""
    return _build(workload, batch, threads, compiled=True)
