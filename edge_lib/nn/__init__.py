"""Modules: poolers, heads, fusions, projectors, decoders, losses."""
