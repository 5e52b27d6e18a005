"""COCO's pictures and captions."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from edge_lib.sources.download.archives import Archive, ArchiveDownload, read_json
from edge_lib.sources.download.disk import write_json
from edge_lib.sources.download.published import COCO, KARPATHY

KARPATHY_SPLITS = {"train": ("train", "restval"), "val": ("val",), "test": ("test",)}


class CocoCaptionsDownload(ArchiveDownload):
    """COCO's pictures, each with five captions by people (Lin et al. 2015), for 01 and as the
    pictures of VQAv2. `data.source: coco` reads it.

    Karpathy's splits, which papers report: 113,287 train, 5,000 val and 5,000 test pictures of
    2014; 20.2 GB to fetch, 21 GB on disk, and 14 GB more on the way. OUT/dataset_coco.json,
    OUT/train2014, OUT/val2014. --splits 2014 and 2017 are COCO's own: 82,783 + 40,504 or 118,287 +
    5,000 pictures, OUT/captions_{train,val}YEAR.json, OUT/{train,val}YEAR.

    --rows: so many pictures of each split; a request each, out of the archives.

    Captions: CC BY 4.0. Pictures: of Flickr, each with its own Creative Commons licence, which
    COCO's annotations name. From images.cocodataset.org and cs.stanford.edu, sha256 checked.
    """

    LICENCE: ClassVar[str] = "captions CC BY 4.0; pictures under the licences of their Flickr pages"

    splits: Literal["karpathy", "2014", "2017"] = Field(
        "karpathy", description="karpathy, 2014 or 2017"
    )

    @property
    def files(self) -> dict[str, str]:
        if self.splits == "karpathy":
            return dict.fromkeys(KARPATHY_SPLITS, "dataset_coco.json")
        return {split: f"captions_{split}{self.splits}.json" for split in ("train", "val")}

    def annotations(self) -> list[Archive]:
        if self.splits == "karpathy":
            return [Archive(KARPATHY, ("dataset_coco.json",))]
        url = f"{COCO}/annotations/annotations_trainval{self.splits}.zip"
        return [Archive(url, (f"annotations/captions_*{self.splits}.json",), flat=True)]

    def pictures(self) -> list[Archive]:
        return coco_pictures("2017" if self.splits == "2017" else "2014")

    def write_part(self, whole: Path) -> list[str]:
        paths = []
        for split, file in self.files.items():
            images = self._images(whole, split)
            chosen = self.sample(images)
            paths += sorted(chosen)
            if self.splits != "karpathy":
                self._write_captions(read_json(whole / file), images, chosen, file)
        if self.splits == "karpathy":
            content = read_json(whole / "dataset_coco.json")
            kept = [image for image in content["images"] if _nested(image) in set(paths)]
            write_json(self.out / "dataset_coco.json", content | {"images": kept})
        return paths

    def count_rows(self) -> dict[str, int]:
        return {split: len(self._images(self.out, split)) for split in self.files}

    def _write_captions(
        self, content: dict, images: dict[str, int], chosen: set[str], file: str
    ) -> None:
        numbers = {images[path] for path in chosen}
        part = {
            "images": [image for image in content["images"] if image["id"] in numbers],
            "annotations": [a for a in content["annotations"] if a["image_id"] in numbers],
        }
        write_json(self.out / file, content | part)

    def _images(self, folder: Path, split: str) -> dict[str, int]:
        """The path of each picture of a split, and its id."""
        images = read_json(folder / self.files[split])["images"]
        if self.splits == "karpathy":
            kept = [image for image in images if image["split"] in KARPATHY_SPLITS[split]]
            return {_nested(image): image["cocoid"] for image in kept}
        return {f"{split}{self.splits}/{image['file_name']}": image["id"] for image in images}


def coco_pictures(
    year: str, folder: str = "", splits: Sequence[str] = ("train", "val")
) -> list[Archive]:
    """COCO's pictures of 2014 or 2017 that have annotations."""
    return [
        Archive(f"{COCO}/zips/{split}{year}.zip", (f"{split}{year}/*.jpg",), folder)
        for split in splits
    ]


def _nested(image: dict) -> str:
    return f"{image['filepath']}/{image['filename']}"
