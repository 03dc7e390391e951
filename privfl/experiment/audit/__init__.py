"""Audits: lower bounds on epsilon from the real pipeline, next to the stated figure."""
