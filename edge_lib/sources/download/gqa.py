"""GQA's questions and pictures."""

from pathlib import Path
from typing import ClassVar

from edge_lib.sources.download.archives import Archive, ArchiveDownload, read_json
from edge_lib.sources.download.disk import write_json

GQA = "https://downloads.cs.stanford.edu/nlp/data/gqa"
FILES = {
    "train": "train_balanced_questions.json",
    "val": "val_balanced_questions.json",
    "test": "testdev_balanced_questions.json",
}


class GQADownload(ArchiveDownload):
    """GQA (Hudson & Manning 2019): questions made of scene graphs, one answer each, for 03.
    `data.questions.source: gqa` reads it.

    The balanced questions: 943,000 train, 132,062 val, and testdev's 12,578 as test, as the answers
    of GQA's own test questions are not public; 113,018 pictures. 23 GB to fetch, 22 GB on disk, and
    22 GB more on the way. OUT/*_balanced_questions.json, OUT/images.

    --rows: the questions on so many pictures of each split; a request a picture.

    Questions: CC BY 4.0. Pictures: of Visual Genome (CC BY 4.0) and Flickr. From
    downloads.cs.stanford.edu, which publishes no checksums: each member's CRC-32 is checked, and
    download.json has the sha256 of what came.
    """

    LICENCE: ClassVar[str] = "questions CC BY 4.0; pictures under the licences of Flickr's pages"

    @property
    def files(self) -> dict[str, str]:
        return FILES

    def annotations(self) -> list[Archive]:
        return [Archive(f"{GQA}/questions1.2.zip", tuple(FILES.values()))]

    def pictures(self) -> list[Archive]:
        return [gqa_pictures()]

    def write_part(self, whole: Path) -> list[str]:
        paths = set()
        for file in FILES.values():
            questions = read_json(whole / file)
            chosen = self.sample(question["imageId"] for question in questions.values())
            kept = {key: q for key, q in questions.items() if q["imageId"] in chosen}
            write_json(self.out / file, kept)
            paths |= {f"images/{number}.jpg" for number in chosen}
        return sorted(paths)

    def count_rows(self) -> dict[str, int]:
        return {split: len(read_json(self.out / file)) for split, file in FILES.items()}


def gqa_pictures(folder: str = "") -> Archive:
    return Archive(f"{GQA}/images.zip", ("images/*.jpg",), folder)
