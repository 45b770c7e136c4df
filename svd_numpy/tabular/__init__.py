"""Small tables: networks for them, and scikit-learn's interface."""
