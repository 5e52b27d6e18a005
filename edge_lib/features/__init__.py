"""Frozen encoders, and the store of their outputs."""
