"""Check the parameters that papermill injected into the running notebook."""

import ast
from itertools import pairwise

from edge_lib.config import ConfigError
from edge_lib.config.base import did_you_mean

PARAMETERS = {"config", "overrides", "run_dir"}


def check_parameters() -> None:
    """Raise ConfigError if papermill set a parameter that the notebook does not have.

    papermill only warns about `-p confg ...`, and the default experiment would run. It executes a
    cell "# Parameters" right after the notebook's `parameters` cell: every name in it must be in
    the cell before. Outside of notebooks this does nothing.
    """
    pairs = [pair for pair in pairwise(_executed_cells()) if pair[1].startswith("# Parameters\n")]
    declared, injected = map(_assigned_names, pairs[-1]) if pairs else (set(), set())
    if declared >= PARAMETERS and (unknown := sorted(injected - declared)):
        hint = did_you_mean(unknown[0], sorted(declared))
        allowed = ", ".join(sorted(declared))
        raise ConfigError(f"unknown notebook parameter {unknown[0]!r}; {hint}allowed: {allowed}")


def _executed_cells() -> list[str]:
    """The source of every cell this kernel has executed, the last one last."""
    from IPython import get_ipython  # slow to import outside of notebooks

    shell = get_ipython()
    return shell.user_ns["In"] if shell else []


def _assigned_names(cell: str) -> set[str]:
    names = (node for node in ast.walk(ast.parse(cell)) if isinstance(node, ast.Name))
    return {node.id for node in names if isinstance(node.ctx, ast.Store)}
