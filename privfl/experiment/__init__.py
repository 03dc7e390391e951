"""The composition root and the Python API."""
