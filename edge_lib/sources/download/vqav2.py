"""VQAv2's questions, answers and pictures."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from edge_lib.config import ConfigError
from edge_lib.sources.download.archives import Archive, ArchiveDownload, read_json
from edge_lib.sources.download.base import LocalPath
from edge_lib.sources.download.coco_captions import coco_pictures
from edge_lib.sources.download.disk import write_json
from edge_lib.sources.download.published import VQA

QUESTIONS = "v2_OpenEnded_mscoco_{}2014_questions.json"
ANNOTATIONS = "v2_mscoco_{}2014_annotations.json"
SPLITS = ("train", "val")


class VQAv2Download(ArchiveDownload):
    """VQAv2 (Goyal et al. 2017): questions on COCO's pictures of 2014, ten answers each, for 03.
    `data.questions.source: vqav2` reads it.

    443,757 train questions on 82,783 pictures and 214,354 val questions on 40,504; 20.3 GB to
    fetch, 21 GB on disk, and 14 GB more on the way. The answers of its test questions are not
    public: score on val, and let data.questions.split take a val split of the train pictures.
    OUT/v2_*.json, OUT/train2014, OUT/val2014.

    --rows: the questions on so many pictures of each split; a request a picture.

    Questions and answers: CC BY 4.0. Pictures: as in coco-captions. From s3.amazonaws.com/cvmlp and
    images.cocodataset.org, sha256 checked.
    """

    LICENCE: ClassVar[str] = "questions CC BY 4.0; pictures under the licences of Flickr's pages"

    images: LocalPath | None = Field(
        None, description="folder with train2014 and val2014 that are there (default: fetched)"
    )

    @property
    def files(self) -> dict[str, str]:
        return {split: QUESTIONS.format(split) for split in SPLITS}

    def annotations(self) -> list[Archive]:
        kinds = [f"{kind}_{split}" for kind in ("Questions", "Annotations") for split in SPLITS]
        return [Archive(f"{VQA}/v2_{kind.title()}_mscoco.zip", ("v2_*.json",)) for kind in kinds]

    def pictures(self) -> list[Archive]:
        return [] if self.images else coco_pictures("2014")

    def run(self) -> dict:
        for folder in [self.images / f"{s}2014" for s in SPLITS] if self.images else []:
            if not folder.is_dir():
                raise ConfigError(
                    f"vqav2: images: no such folder {folder}; leave out images, or run "
                    f"edge-glass download coco-captions --out {self.images}"
                )
        return super().run()

    def write_part(self, whole: Path) -> list[str]:
        paths = []
        for split in SPLITS:
            questions = read_json(whole / QUESTIONS.format(split))
            chosen = self.sample(entry["image_id"] for entry in questions["questions"])
            for name, key in ((QUESTIONS, "questions"), (ANNOTATIONS, "annotations")):
                content = read_json(whole / name.format(split))
                kept = [entry for entry in content[key] if entry["image_id"] in chosen]
                write_json(self.out / name.format(split), content | {key: kept})
            paths += [f"{split}2014/COCO_{split}2014_{number:012}.jpg" for number in sorted(chosen)]
        return [] if self.images else paths

    def count_rows(self) -> dict[str, int]:
        return {s: len(read_json(self.out / file)["questions"]) for s, file in self.files.items()}
