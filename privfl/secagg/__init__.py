"""MaskedSum: secure aggregation by pairwise masks."""
