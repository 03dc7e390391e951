"""What `make compat`, `make package` and `make release` run."""
