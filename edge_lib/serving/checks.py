"""What is checked before a server loads its model, which takes seconds, and listens."""

import socket
from pathlib import Path

from edge_lib.config import ConfigError
from edge_lib.runs.files import absolute_path
from edge_lib.runs.saved_models import saved_model
from edge_lib.serving.settings import ServeSettings


def check_start(run: str, settings: ServeSettings) -> None:
    """ConfigError if a folder or file does not exist or holds something else, or the port cannot
    be listened on.
    """
    folder = absolute_path(run)
    if not folder.exists() and not _is_name(run):
        raise ConfigError(f"serve: no folder {run}")
    if folder.exists() and not (folder / "onnx").is_dir():
        saved_model(folder)
    if settings.index:
        from edge_lib.serving.index import read_metadata  # imports pyarrow

        read_metadata(settings.index)
    _check_port(settings.host, settings.port)


def _is_name(run: str) -> bool:
    """Whether it can be the name of a model that ships or lies on the Hub, `org/name`."""
    from edge_lib.models.hub import SHIPPED  # imports torch

    is_hub_name = len(Path(run).parts) == 2 and not absolute_path(run).parent.is_dir()
    return run in SHIPPED or is_hub_name


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        reason = error.strerror.partition(" (")[0]  # Python adds the address
        raise ConfigError(f"serve: --host {host} --port {port}: {reason}") from None
