"""The folder of a saved model: metadata as JSON, weights as safetensors, and a model card."""

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from edge_lib.config import ConfigError
from edge_lib.models.card import CARD, Backbone, write_card
from edge_lib.models.hub import find_model, upload_model
from edge_lib.runs.files import file_digests, read_saved, sha256_of, whole_folder, write_json

log = logging.getLogger(__name__)
T = TypeVar("T")
DIGESTS = "sha256"  # key of the metadata: the digest of each file beside it


class PretrainedModel:
    """Saves and loads a model, in a folder or on the Hugging Face Hub.

    A subclass has `_write`, `_read`, `backbones`, `facts` and `example`. FILE: its metadata.
    TASK: the Hub's name of what it is used for. source: the folder that it was loaded from.
    """

    FILE: ClassVar[str]
    TASK: ClassVar[str] = "feature-extraction"
    source: Path | None = None

    def _write(self, folder: Path) -> dict[str, Any]:
        """Write the weights; returns the metadata."""
        raise NotImplementedError

    @classmethod
    def _read(cls, folder: Path, metadata: dict[str, Any], **options) -> Self:
        """The model that `_write` wrote."""
        raise NotImplementedError

    def backbones(self) -> dict[str, Backbone]:
        """The frozen models that it was trained on, which are not saved with it."""
        raise NotImplementedError

    def facts(self) -> dict[str, str]:
        """Sizes and settings, for the card."""
        raise NotImplementedError

    @property
    def title(self) -> str:
        """What it is, for the card."""
        raise NotImplementedError

    @property
    def example(self) -> str:
        """A line of Python that uses `model`, for the card."""
        raise NotImplementedError

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights, metadata and a model card; the folder appears whole or not at all.

        A relative path is relative to the working directory. The backbones are not written: they
        are loaded by name.
        """
        with whole_folder(folder) as temporary:
            metadata = self._write(temporary)
            # models inside have digests of their own
            inside = [card.parent for card in temporary.rglob(CARD)]
            digests = {self.FILE: _metadata_digest(metadata), **file_digests(temporary, inside)}
            write_json(temporary / self.FILE, metadata | {DIGESTS: digests})
            write_card(self, temporary, model_digest(temporary))

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        **options,
    ) -> Self:
        """Load a model in evaluation mode: one that ships, that `save_pretrained` wrote to a
        folder, or that `push_to_hub` wrote to the Hub, looked up in this order.

        The other arguments are those of huggingface_hub, for models of the Hub alone. Raises
        FileNotFoundError if a folder holds no such model; ConfigError for a damaged or unreadable
        file, and for a model that the Hub does not give.
        """
        download = {
            "force_download": force_download,
            "token": token,
            "cache_dir": cache_dir,
            "local_files_only": local_files_only,
            "revision": revision,
        }
        folder = find_model(pretrained_model_name_or_path, cls.FILE, **download)
        model = load_saved(folder, cls.FILE, lambda saved: cls._read(folder, saved, **options))
        model.source = folder
        return model.eval()

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Upload model",
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
        create_pr: bool | None = None,
        allow_patterns: list[str] | str | None = None,
        ignore_patterns: list[str] | str | None = None,
        delete_patterns: list[str] | str | None = None,
    ) -> str:
        """Write the model to the Hub, in one commit; returns its URL. The repository and the branch
        are created if they do not exist.

        The arguments are those of `huggingface_hub.ModelHubMixin`. Raises ConfigError, before
        anything is sent, for a backbone that others cannot load, and if the Hub refuses.

        Example:
            >>> Aligner.from_pretrained(run.checkpoints / "best").push_to_hub("org/name")
        """
        return upload_model(
            self,
            repo_id,
            private=private,
            token=token,
            commit_message=commit_message,
            revision=branch,
            create_pr=create_pr,
            allow_patterns=allow_patterns,
            ignore_patterns=ignore_patterns,
            delete_patterns=delete_patterns,
        )


def _read_metadata(folder: Path, name: str) -> dict[str, Any]:
    """The metadata of a saved model, whose files are checked. ConfigError for a damaged file."""
    metadata = read_saved(folder, name)
    digests = metadata.pop(DIGESTS, {})  # older versions saved none, or fewer
    own = _metadata_digest(metadata)
    if digests.pop(name, own) != own:
        log.warning("%s is not as it was saved: edited, or damaged", folder / name)
    for file, digest in digests.items():
        _check_file(folder / file, digest)
    return metadata


def _metadata_digest(metadata: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(metadata).encode()).hexdigest()


def _check_file(path: Path, digest: str) -> None:
    if not path.is_file():
        raise ConfigError(f"{path} is missing: copy the whole folder")
    try:
        if sha256_of(path) == digest:
            return
        is_pointer = path.read_bytes()[:8] == b"version "  # it is cloned without LFS
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    reason = "run `git lfs pull`" if is_pointer else "its content is not what was saved"
    raise ConfigError(f"{path} is damaged: {reason}")


def load_saved(folder: Path, name: str, build: Callable[[dict[str, Any]], T]) -> T:
    """What `build` makes of the metadata. ConfigError for a damaged file, and for whatever is
    raised by metadata, weights and tokenizers that do not fit: tokenizers raises plain exceptions.
    """
    metadata = _read_metadata(folder, name)
    try:
        return build(metadata)
    except ConfigError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300]  # torch lists every tensor
        raise ConfigError(f"{folder} cannot be loaded: {type(error).__name__}: {reason}") from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; ConfigError if it is damaged."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ConfigError(f"{path} is damaged: {error}") from None


def model_digest(folder: Path) -> str:
    """Of all weights in a saved model's folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
