"""Adapters to other frameworks, `torch` and `opacus`, each imported only where it is used."""

__all__ = ["opacus", "torch"]
