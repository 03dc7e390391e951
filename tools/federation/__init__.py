"""One real federation on this machine: `make federation`."""
