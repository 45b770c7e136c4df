"""Networks for others: PyTorch, ONNX, SciPy, microcontrollers and browsers."""

from svd_numpy.exchange.c import IntegerModel, export_c, to_integers
from svd_numpy.exchange.csr import export_csr
from svd_numpy.exchange.onnx_graph import export_onnx
from svd_numpy.exchange.page import export_html, export_writer
from svd_numpy.exchange.torch_names import from_torch_state_dict, save_torch_state_dict, torch_state_dict

__all__ = [
    "IntegerModel", "export_c", "export_csr", "export_html", "export_onnx", "export_writer", "from_torch_state_dict",
    "save_torch_state_dict", "to_integers", "torch_state_dict",
]  # fmt: skip
