"""LLaVA-1.5's conversations and pictures."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from edge_lib.sources.download.archives import Archive, ArchiveDownload, Records, read_json
from edge_lib.sources.download.coco_captions import coco_pictures
from edge_lib.sources.download.disk import write_json
from edge_lib.sources.download.gqa import gqa_pictures
from edge_lib.sources.download.hub_files import dataset_info, download_files, source_of

REPO, FILE = "liuhaotian/LLaVA-Instruct-150K", "llava_v1_5_mix665k.json"
TEXTVQA = "https://dl.fbaipublicfiles.com/textvqa/images/train_val_images.zip"
VISUAL_GENOME = "https://cs.stanford.edu/people/rak248/VG_100K_2"
UNAVAILABLE = "ocr_vqa/"


class Llava665KDownload(ArchiveDownload):
    """The 665,298 conversations of LLaVA-1.5's second stage (Liu et al. 2023), on pictures of COCO,
    GQA, TextVQA and Visual Genome, or on none, for 06. `data.conversations.source: llava` reads it.

    64 GB to fetch (COCO 19.3, GQA 21.8, TextVQA 7.1, Visual Genome 15), as much on disk, and 22 GB
    more on the way. OUT/llava_v1_5_mix665k.json, OUT/images. There is no val and no test split: use
    data.conversations.split.

    80,000 conversations are on book covers of OCR-VQA (https://ocr-vqa.github.io), which has no
    archive of its own, and many of whose links are dead; LLaVA's users pass them on as
    ocr_vqa_images_llava_v15.zip in the Hub's weizhiwang/llava_v15_instruction_images. Save them as
    OUT/images/ocr_vqa/images/ID.jpg. Without them these conversations are skipped and counted when
    they are encoded; --rows leaves them out.

    --rows: so many conversations; a request a picture.

    Conversations: CC BY 4.0, and OpenAI's terms of use (GPT-4 wrote them). Pictures: of Flickr and
    others, each with its own licence. From the Hugging Face Hub and the pictures' publishers, who
    publish sha256 sums of the conversations and of COCO alone: these are checked.
    """

    LICENCE: ClassVar[str] = "CC BY 4.0 and OpenAI's terms; pictures under licences of their own"

    @property
    def files(self) -> dict[str, str]:
        return {"train": FILE}

    def annotations(self) -> list[Archive]:
        return []

    def fetch(self, pictures: Sequence[Archive], folder: Path) -> Records:
        info = dataset_info(REPO, None, self.out)
        download_files(info, [FILE], folder)
        return [source_of(info) | {"skipped": {}}, *super().fetch(pictures, folder)]

    def pictures(self) -> list[Archive]:
        return [
            *coco_pictures("2017", "images/coco", ["train"]),
            gqa_pictures("images/gqa"),
            Archive(TEXTVQA, ("train_images/*.jpg",), "images/textvqa"),
            Archive(f"{VISUAL_GENOME}/images.zip", ("VG_100K/*.jpg",), "images/vg"),
            Archive(f"{VISUAL_GENOME}/images2.zip", ("VG_100K_2/*.jpg",), "images/vg"),
        ]

    def write_part(self, whole: Path) -> list[str]:
        entries = read_json(whole / FILE)
        usable = [n for n, e in enumerate(entries) if not _image(e).startswith(UNAVAILABLE)]
        chosen = [entries[number] for number in sorted(self.sample(usable))]
        write_json(self.out / FILE, chosen)
        return sorted({f"images/{_image(entry)}" for entry in chosen if _image(entry)})

    def count_rows(self) -> dict[str, int]:
        return {"train": len(read_json(self.out / FILE))}

    def run(self) -> dict[str, Any]:
        """The summary also has the conversations by the folder of their picture."""
        summary = super().run()
        folders = Counter(_image(e).partition("/")[0] or "none" for e in read_json(self.out / FILE))
        return summary | {"pictures": dict(folders)}


def _image(entry: dict) -> str:
    return entry.get("image") or ""
