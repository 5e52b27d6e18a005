"""Models on the Hugging Face Hub: found, downloaded, checked and uploaded."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from edge_lib.config import ConfigError
from edge_lib.config.base import did_you_mean
from edge_lib.features.weights import ASSETS
from edge_lib.models.card import CARD, name_in_card
from edge_lib.runs.files import absolute_path, sha256_of

SHIPPED = {"tiny-align": ASSETS / "tiny-align"}
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
# nothing that runs code when it is read, such as pickles
PATTERNS = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt", f"*{CARD}", "*.png"]
LOGIN = "log in with `hf auth login`, or pass token="
STATUSES = {401: LOGIN, 403: f"your token does not allow this; {LOGIN}", 429: "too many requests"}
# the first that fits: some are kinds of others, or causes
REASONS = {
    GatedRepoError: f"access is gated; ask for it on the page of the model, and {LOGIN}",
    RepositoryNotFoundError: f"no such model, or a private one; {LOGIN}",
    RevisionNotFoundError: "no revision {revision!r}",
    HfHubHTTPError: "HTTP status {status}; {advice}",
    LocalEntryNotFoundError: "not reachable, and not in the local cache",
    HTTPError: "not reachable",
}


def find_model(name: str | Path, *files: str, **download) -> Path:
    """The folder of a model that ships, of a local folder, or of one downloaded from the Hub.

    files: its metadata, one of these. download: arguments of `huggingface_hub.snapshot_download`. A
    folder is returned whatever it holds; raises ConfigError for a model that the Hub does not give.
    """
    folder = SHIPPED.get(name) if isinstance(name, str) else None
    folder = folder or absolute_path(name)
    if not folder.exists() and isinstance(name, str) and HUB_NAME.fullmatch(name):
        return _download(name, files, **download)
    if not folder.exists() and (hint := did_you_mean(str(name), SHIPPED)):
        raise ConfigError(f"{name} is neither shipped nor a folder; {hint.strip()}")
    if download.get("revision") is not None:
        raise ConfigError(f"{name} is a folder; only models of the Hub have a revision")
    return folder


def _download(name: str, files: tuple[str, ...], **download) -> Path:
    """The folder of a model of the Hub in the local cache, with its files checked."""
    try:
        folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=PATTERNS, **download))
    except Exception as error:
        reason = _reason(error, download.get("revision"))
        raise ConfigError(
            f"{name} is neither shipped nor a folder; from the Hub: {reason}"
        ) from error
    if not any((folder / file).is_file() for file in files):
        others = ", ".join(sorted(path.name for path in folder.glob("*.json"))) or "no JSON files"
        names = " or ".join(files)
        raise ConfigError(f"{name}: not such a model: the repository has no {names}, but {others}")
    for path in folder.rglob("*"):
        if path.is_file() and not _is_intact(path):
            relative = path.relative_to(folder).as_posix()
            raise ConfigError(f"{name}: {relative} is damaged; load it with force_download=True")
    return folder


def _is_intact(path: Path) -> bool:
    """Whether a file of the cache has the digest that its link names: SHA-256 for large files, that
    of a Git blob for others. huggingface_hub compares sizes alone.
    """
    if not path.is_symlink():
        return True
    # one step: the next may lead to a store that several repositories share, of other names
    digest = path.readlink().name
    if re.fullmatch("[0-9a-f]{64}", digest):
        return sha256_of(path) == digest
    blob = b"blob %d\0%b" % (path.stat().st_size, path.read_bytes())
    return not re.fullmatch("[0-9a-f]{40}", digest) or hashlib.sha1(blob).hexdigest() == digest


def upload_model(
    model: Any, name: str, *, private: bool | None, token: str | None, **commit
) -> str:
    """`PretrainedModel.push_to_hub`; commit: arguments of `huggingface_hub.HfApi.upload_folder`."""
    if local := [f"{key} {b.name}" for key, b in model.backbones().items() if b.is_local]:
        raise ConfigError(
            f"{name}: others cannot load {', '.join(local)}, a folder of this machine; write the "
            f"name that it has on the Hub into {model.FILE}, and load the model again"
        )
    api = huggingface_hub.HfApi(token=token)
    with TemporaryDirectory() as temporary:
        model.save_pretrained(folder := Path(temporary, "model"))
        try:
            name = api.create_repo(name, private=private, exist_ok=True).repo_id
            if commit["revision"] and not commit["create_pr"]:
                api.create_branch(name, branch=commit["revision"], exist_ok=True)
            name_in_card(folder, name)
            return api.upload_folder(repo_id=name, folder_path=folder, **commit)
        except Exception as error:
            reason = _reason(error, commit["revision"])
            raise ConfigError(f"{name}: the Hub did not take the model: {reason}") from error


def _reason(error: Exception, revision: str | None) -> str:
    """One line on an error of huggingface_hub, or on what caused it."""
    errors = [*_causes(error)]
    for kind, reason in REASONS.items():
        if matches := [e for e in errors if isinstance(e, kind)]:
            status = getattr(getattr(matches[0], "response", None), "status_code", None)
            advice = STATUSES.get(status, "try again later")
            return reason.format(revision=revision, status=status, advice=advice)
    return (str(error) or type(error).__name__).splitlines()[0]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
