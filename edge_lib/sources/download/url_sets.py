"""Public sets of URLs with captions."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from edge_lib.sources.download.base import LocalPath
from edge_lib.sources.download.hub_files import dataset_info, download_files, source_of
from edge_lib.sources.download.url_download import UrlDownload, UrlsDownload
from edge_lib.sources.download.url_lists import ListFormat

PIXMO_CAP = "allenai/pixmo-cap"
CC3M = "ai.google.com/research/ConceptualCaptions/download"
RELAION = "laion/relaion2B-en-research-safe"


def _given(where: str) -> AfterValidator:
    """The type of a list that the user has to get."""

    def validate(path: Path | None) -> Path | None:
        if path is None:
            raise ValueError(f"name the list; {where}")
        return path

    return AfterValidator(validate)


class PixmoCapDownload(UrlDownload):
    """PixMo-Cap: 717,000 pictures with long spoken captions (about 77% of the URLs are alive, some
    160 GB; ODC-BY-1.0, pictures belong to their owners). Its list is fetched from the hub's
    allenai/pixmo-cap, or is --list, as Parquet with image_url, caption, transcripts.
    """

    LICENCE = "ODC-BY-1.0; pictures belong to their owners"

    list: LocalPath | None = Field(
        None, description=f"Parquet files of {PIXMO_CAP} (default: fetched from the Hub)"
    )

    @property
    def list_format(self) -> ListFormat:
        return ListFormat("image_url", "caption", extra="transcripts")

    def list_path(self) -> tuple[Path, Any]:
        if self.list:
            return super().list_path()
        info = dataset_info(PIXMO_CAP, None, self.out)
        names = [f.rfilename for f in info.siblings if f.rfilename.endswith(".parquet")]
        download_files(info, names, self.out / "hub")
        return self.out / "hub", source_of(info)


class Cc3mDownload(UrlDownload):
    """Conceptual Captions (CC3M): 3.3 million pictures with cleaned alt texts (less than 80% of the
    URLs are alive; free for any use, Google asks to be named). --list is the file
    Train_GCC-training.tsv, "caption TAB url" without a header.
    """

    LICENCE = "free for any use, naming Google LLC as the source is asked for"

    list: Annotated[LocalPath | None, _given(f"download Train_GCC-training.tsv from {CC3M}")] = (
        Field(None, description=f"Train_GCC-training.tsv, from {CC3M}")
    )

    @property
    def list_format(self) -> ListFormat:
        return ListFormat("url", "caption", header=("caption", "url"))


class LaionDownload(UrlsDownload):
    """A list of LAION: pictures of the web with their alt texts (the list is CC-BY-4.0, pictures
    belong to their owners). --list is a Parquet file, or a folder or glob pattern of many, such as
    what `edge-glass download hub --repo laion/relaion2B-en-research-safe` writes once access has
    been granted on that page of the Hub.
    """

    LICENCE = "CC-BY-4.0 (list); pictures belong to their owners"

    list: Annotated[
        LocalPath | None,
        _given(
            f"ask for access to {RELAION} on the Hub, then: edge-glass download hub "
            f"--repo {RELAION} --out DIR"
        ),
    ] = Field(None, description="Parquet files: one, a folder, or a glob pattern")
    url_column: str = Field("URL", description="of the list's URLs")
    caption_column: str = Field("TEXT", description="of its captions")
