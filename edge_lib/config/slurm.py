"""Options of Slurm, by submitit's names."""

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from edge_lib.config.base import did_you_mean


def _known(options: dict[str, Any]) -> dict[str, Any]:
    """ValueError for a name that submitit does not take."""
    if not options:
        return options
    from submitit import AutoExecutor, SlurmExecutor  # takes 0.1 s

    general = AutoExecutor._valid_parameters()
    own = general | SlurmExecutor._valid_parameters() | {"max_num_timeout"}
    allowed = sorted(general | {f"slurm_{name}" for name in own})
    for name in options:
        if name not in allowed:
            hint = did_you_mean(name, allowed)
            raise ValueError(f"unknown option {name!r}; {hint}allowed: {', '.join(allowed)}")
    return options


SlurmOptions = Annotated[
    dict[str, Any],
    AfterValidator(_known),
    Field(description="submitit's parameters, e.g. slurm_partition"),
]
