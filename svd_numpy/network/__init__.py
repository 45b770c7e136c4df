"""A network: its parameters, layers and objective; its sparsity and its scores."""
