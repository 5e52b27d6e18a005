"""Trained modules: poolers, heads, fusions, projectors, decoders, losses."""
