"""The CUDA backend: the contract on a GPU, through `numba.cuda`. Start with `backend.py`."""
