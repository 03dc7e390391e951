"""Adapters to other frameworks, each imported only where it is used."""
