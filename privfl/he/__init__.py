"""CkksSum: homomorphic summation."""
