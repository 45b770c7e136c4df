"""A network: its parameters, layers, objective; how sparse it is and how well it does."""
