"""The contract on a processor, in Numba."""
