"""Files of data sets on the Hugging Face Hub, with errors that name the cause."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import DatasetInfo

from edge_lib.config import ConfigError
from edge_lib.sources.download.base import COMMIT
from edge_lib.sources.download.disk import require_space, write_whole

WORKERS = 4  # files at a time: the Hub counts requests


def dataset_info(repo: str, revision: str | None, out: Path) -> DatasetInfo:
    """What the Hub knows of a data set, in one request: its commit, files, lengths and card. A
    download that is resumed in the folder `out` has the commit with which it began.
    """
    pin = out / COMMIT
    commit = pin.read_text() if pin.exists() else None
    with hub_errors(repo):
        api = HfApi(endpoint=constants.ENDPOINT)
        info = api.dataset_info(repo, revision=commit or revision, files_metadata=True, timeout=30)
    write_whole(pin, lambda file: file.write(info.sha.encode()))
    return info


def download_files(info: DatasetInfo, names: Sequence[str], folder: Path) -> None:
    """Write files of a data set to a folder, or what is left of them. The Hub's sha256 sums are
    checked on the way.

    Raises ConfigError if one is missing at the end: some failures end `snapshot_download` early.
    """
    sizes = {file.rfilename: file.size for file in info.siblings}
    if absent := [name for name in names if name not in sizes]:
        raise ConfigError(f"{info.id} has no {absent[0]} any more; it has {', '.join(sizes)}")
    wanted = {name: sizes[name] for name in names}
    missing = [name for name, size in wanted.items() if not _is_there(folder / name, size)]
    if not missing:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name in missing:  # a damaged file would be taken for the Hub's
        (folder / name).unlink(missing_ok=True)
    require_space(folder, sum(wanted[name] or 0 for name in missing), info.id)
    with hub_errors(info.id):
        snapshot_download(
            info.id,
            repo_type="dataset",
            revision=info.sha,
            local_dir=folder,
            allow_patterns=[_literal(name) for name in missing],
            max_workers=WORKERS,
            endpoint=constants.ENDPOINT,
        )
    for name in missing:
        if not _is_there(folder / name, wanted[name]):
            raise ConfigError(f"{info.id}: {name} did not arrive; run the same command again")


def source_of(info: DatasetInfo) -> dict[str, str]:
    """What download.json remembers: the commit, as branches move on."""
    return {"repo": info.id, "revision": info.sha}


@contextmanager
def hub_errors(repo: str) -> Iterator[None]:
    """ConfigError for what the Hub answers, which huggingface_hub often hides behind a missing file
    in its cache.
    """
    try:
        yield
    except Exception as error:  # of many types, and from httpx
        problem = next(filter(None, (_problem(e, repo) for e in _causes(error))), None)
        if problem is None:
            problem = " ".join(str(error).split()) or repr(error)
        raise ConfigError(f"{repo}: {problem}") from None


def _problem(error: BaseException, repo: str) -> str | None:
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, which forbids downloads"
    if isinstance(error, HTTPError) and not isinstance(error, HfHubHTTPError):
        reason = str(error) or type(error).__name__
        hint = "check the network, or name a mirror by HF_ENDPOINT"
        return f"cannot reach {constants.ENDPOINT} ({reason}); {hint}"
    if isinstance(error, RevisionNotFoundError):
        return "it has no such revision"
    page = f"{constants.ENDPOINT}/datasets/{repo}"
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, GatedRepoError) or status == 403:
        return f"it is gated: accept its conditions on {page}, and log in with `hf auth login`"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"there is no such data set on {constants.ENDPOINT}, or it is private: log in with "
            "`hf auth login`"
        )
    if status == 401:
        return "the token is not valid; log in with `hf auth login`, or correct HF_TOKEN"
    if status == 429:
        return f"the Hub's rate limit is reached (HTTP 429){_wait(error)}; a token raises it"
    return f"HTTP {status} from {constants.ENDPOINT}" if status else None


def _wait(error: HfHubHTTPError) -> str:
    seconds = error.response.headers.get("Retry-After", "")
    return f", try again in {seconds} s" if seconds.isdecimal() else ", try again in some minutes"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_there(path: Path, size: int | None) -> bool:
    return path.is_file() and size in (None, path.stat().st_size)


def _literal(name: str) -> str:
    """A name as a pattern that matches it alone."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
