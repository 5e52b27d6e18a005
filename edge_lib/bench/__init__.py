"""Measurements against named rivals: `python -m edge_lib.bench NAME [--json]`.

A benchmark is a function without arguments that returns a flat dict of numbers. Where `X.ours`
stands beside `X.RIVAL` and `X.RIVAL.ratio` (rival / ours), they become one line of the table.
"""
