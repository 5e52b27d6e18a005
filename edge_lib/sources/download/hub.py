"""Any data set of the Hugging Face Hub, as a folder."""

from fnmatch import fnmatch
from typing import Any

from huggingface_hub.hf_api import DatasetInfo
from pydantic import Field, field_validator

from edge_lib.config import ConfigError
from edge_lib.config.base import did_you_mean
from edge_lib.sources.download.base import Download
from edge_lib.sources.download.hub_files import dataset_info, download_files, source_of

LEFT_OUT = ("*.py", ".git*", "*/.git*")  # scripts are not run


class HubDownload(Download):
    """A data set of the Hugging Face Hub, in the files that it has there. `source: hub` of data,
    data.questions and data.conversations reads it by `name: OUT/files`.

    Size and licence are on its page. The token of `hf auth login` or HF_TOKEN is used; HF_ENDPOINT
    names a mirror. Lengths and sha256 sums are checked. download.json has the commit.
    """

    repo: str = Field(pattern=r"^[\w.-]+(/[\w.-]+)?$", description="org/name")
    revision: str | None = Field(None, description="branch, tag or commit (default main)")
    config: str | None = Field(None, description="one of its configurations (default all)")

    @field_validator("rows")
    @classmethod
    def _takes_whole_files(cls, rows: int | None) -> int | None:
        if rows is not None:
            raise ValueError(
                "files of the Hub come whole; name a part in the config, as in train: train[:1000]"
            )
        return rows

    def run(self) -> dict[str, Any]:
        info = dataset_info(self.repo, self.revision, self.out)
        names = [file.rfilename for file in info.siblings]
        names = [n for n in names if not any(fnmatch(n, pattern) for pattern in LEFT_OUT)]
        if self.config is not None:
            patterns = ["README.md", *_patterns(info, self.config)]
            names = [n for n in names if any(fnmatch(n, pattern) for pattern in patterns)]
        if set(names) <= {"README.md"}:
            raise ConfigError(f"{self.repo}: it has no data files")
        download_files(info, names, self.out / "files")
        card = info.card_data or {}
        return {
            "files": {"all": "files"},
            "licence": card.get("license"),
            "source": source_of(info),
        }


def _patterns(info: DatasetInfo, config: str) -> list[str]:
    """Of the data files of a configuration, as its card names them."""
    configs = {c["config_name"]: c for c in (info.card_data or {}).get("configs") or []}
    if config not in configs:
        hint, allowed = did_you_mean(config, configs), ", ".join(configs) or "it has none"
        raise ConfigError(f"{info.id}: no configuration {config!r}; {hint}allowed: {allowed}")
    entry = configs[config]
    folder = entry.get("data_dir")
    named = _listed(entry.get("data_files", "**"))
    patterns = [p.removeprefix("./") for item in named for p in _listed(_paths(item))]
    return [f"{folder}/{pattern}" if folder else pattern for pattern in patterns]


def _paths(item: Any) -> Any:
    return item["path"] if isinstance(item, dict) else item


def _listed(value: Any) -> list:
    return value if isinstance(value, list) else [value]
