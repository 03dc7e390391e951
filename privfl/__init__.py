"""Privacy-preserving federated learning with secure aggregation."""

__version__ = "0.1.0"
