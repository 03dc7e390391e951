"""Exact integer samplers of noise: rounded Gaussian, Skellam and discrete Gaussian."""
