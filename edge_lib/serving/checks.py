"""What is checked before a server loads its model, which takes seconds, and listens."""

import socket
from pathlib import Path

from edge_lib.config import ConfigError
from edge_lib.runs.files import absolute_path
from edge_lib.runs.saved_models import saved_model
from edge_lib.serving.settings import ServeSettings


def check_start(run: str, settings: ServeSettings) -> None:
    """ConfigError if a local folder or file does not exist, a folder holds no model, or the port
    cannot be listened on.
    """
    folder = absolute_path(run)
    if _is_local(run) and not folder.exists():
        raise ConfigError(f"serve: no folder {run}")
    if folder.exists() and not (folder / "onnx").is_dir():
        saved_model(folder)
    if settings.index and not settings.index.is_file():
        raise ConfigError(f"index: no file {settings.index}")
    _check_port(settings.host, settings.port)


def _is_local(run: str) -> bool:
    """Whether it cannot be the name of a model that ships or lies on the Hub, `org/name`."""
    parts = Path(run).parts
    return len(parts) > 2 or (len(parts) == 2 and absolute_path(run).parent.is_dir())


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        reason = error.strerror.partition(" (")[0]  # Python adds the address
        raise ConfigError(f"serve: --host {host} --port {port}: {reason}") from None
