"""Data sets, partitions and federated preprocessing."""
