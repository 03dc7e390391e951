"""Differential privacy: mechanisms, ledger, accounting."""
