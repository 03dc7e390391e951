"""Cryptographic building blocks: thin, labelled wrappers around the cryptography package."""
