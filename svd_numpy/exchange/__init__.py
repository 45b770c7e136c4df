"""Exchange of networks with other libraries: PyTorch, ONNX and SciPy."""

from svd_numpy.exchange.csr import export_csr
from svd_numpy.exchange.onnx_graph import export_onnx
from svd_numpy.exchange.torch_names import from_torch_state_dict, save_torch_state_dict, torch_state_dict

__all__ = ["export_csr", "export_onnx", "from_torch_state_dict", "save_torch_state_dict", "torch_state_dict"]
