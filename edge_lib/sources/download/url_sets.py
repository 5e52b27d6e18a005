"""Public sets of URLs with captions."""

from pathlib import Path

from huggingface_hub import snapshot_download
from pydantic import Field

from edge_lib.config import ConfigError
from edge_lib.sources.download.base import LocalPath
from edge_lib.sources.download.url_download import UrlDownload, UrlsDownload
from edge_lib.sources.download.url_lists import ListFormat

PIXMO_CAP = "allenai/pixmo-cap"


class PixmoCapDownload(UrlDownload):
    """PixMo-Cap: 717,000 pictures with long spoken captions (about 77% of the URLs are alive, some
    160 GB; ODC-BY-1.0, pictures belong to their owners). Its list is fetched from the hub's
    allenai/pixmo-cap, or is --list, as Parquet with image_url, caption, transcripts.
    """

    LICENCE = "ODC-BY-1.0; pictures belong to their owners"

    list: LocalPath | None = Field(
        None, description=f"Parquet files of {PIXMO_CAP} (default: fetched from the hub)"
    )

    @property
    def list_format(self) -> ListFormat:
        return ListFormat("image_url", "caption", extra="transcripts")

    def list_path(self) -> Path:
        if self.list:
            return self.list
        try:
            folder = snapshot_download(PIXMO_CAP, repo_type="dataset", allow_patterns="*.parquet")
        except Exception as error:  # of many types: networks, tokens, limits
            line = " ".join(str(error).split())
            raise ConfigError(f"{PIXMO_CAP}: {line}; or name its Parquet files by --list") from None
        return Path(folder)


class Cc3mDownload(UrlDownload):
    """Conceptual Captions (CC3M): 3.3 million pictures with cleaned alt texts (less than 80% of the
    URLs are alive; free for any use, Google asks to be named). --list is the file
    Train_GCC-training.tsv, "caption TAB url" without a header, from the download page of
    ai.google.com/research/ConceptualCaptions.
    """

    LICENCE = "free for any use, naming Google LLC as the source is asked for"
    list: LocalPath = Field(
        description="Train_GCC-training.tsv, from ai.google.com/research/ConceptualCaptions"
    )

    @property
    def list_format(self) -> ListFormat:
        return ListFormat("url", "caption", header=("caption", "url"))


class LaionDownload(UrlsDownload):
    """A list of LAION: pictures of the web with their alt texts (CC-BY-4.0 for the list, pictures
    belong to their owners). --list is a Parquet file, or a folder or glob pattern of many. The hub
    gives relaion2B-en-research-safe of the organisation laion to those who ask for access there:
    `hf download laion/relaion2B-en-research-safe --repo-type dataset --local-dir DIR`.
    """

    LICENCE = "CC-BY-4.0 (list); pictures belong to their owners"
    url_column: str = Field("URL", description="of the list's URLs")
    caption_column: str = Field("TEXT", description="of its captions")
