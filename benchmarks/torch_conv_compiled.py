"""The compiled convolutional peer, apart so that the compiler counts among its imports and not as a step's memory."""

from __future__ import annotations

from torch_conv_peers import build_compiled

# isort: split
import torch._inductor.compile_fx  # noqa: F401

__all__ = ["build_compiled"]
