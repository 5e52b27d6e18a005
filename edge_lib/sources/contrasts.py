"""Files of Winoground, SugarCrepe and ARO: pictures beside captions that are nearly right."""

import logging
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from edge_lib.config import ConfigError, ContrastConfig
from edge_lib.data.image import decode_image
from edge_lib.data.skipped import skip_line
from edge_lib.data.unusable import UnusableItem
from edge_lib.sources.entries import encodable, json_entries

log = logging.getLogger(__name__)
FORMS = {  # keys of the pictures, and of the captions: the n-th is right for the n-th picture
    "Winoground": (("image_0", "image_1"), ("caption_0", "caption_1")),
    "SugarCrepe": (("filename",), ("caption", "negative_caption")),
    "ARO": (("image_path",), ("true_caption", "false_caption")),
}
BOX = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")  # of ARO: what the captions are about, in pixels
SUFFIXES = ("", ".png", ".jpg", ".jpeg", ".webp")  # Winoground names its pictures without


@dataclass(frozen=True)
class ContrastExample:
    """Two captions and the files of one or two pictures. box: x, y, width and height in pixels."""

    id: str
    files: list[Path]
    captions: list[str]
    box: tuple[int, ...] = ()

    def pictures(self) -> list[Image.Image]:
        """Raises UnusableItem, or nearly anything for a broken file."""
        return [self._crop(decode_image(file.read_bytes())) for file in self.files]

    def _crop(self, picture: Image.Image) -> Image.Image:
        if not self.box:
            return picture
        x, y, width, height = self.box
        box = max(0, x), max(0, y), min(picture.width, x + width), min(picture.height, y + height)
        if box[0] >= box[2] or box[1] >= box[3]:
            raise UnusableItem("the box is outside of the picture")
        return picture.crop(box)


@dataclass
class ContrastSet:
    """Examples of one form, and the ids of those that cannot be used, by reason."""

    name: str
    examples: list[ContrastExample] = field(default_factory=list)
    skipped: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def log_skipped(self) -> None:
        """A line for each reason."""
        for reason, ids in self.skipped.items():
            log.warning("%s: %s", self.name, skip_line(reason, ids))


def read_contrasts(name: str, config: ContrastConfig) -> ContrastSet:
    """The examples of a json or jsonl file. Raises ConfigError for a missing file or folder, and
    for a file whose entries have the keys of no form, or that has no example to use.
    """
    for key, exists in (("file", config.file.is_file()), ("images", config.images.is_dir())):
        if not exists:
            raise ConfigError(f"evaluate.contrasts.{name}.{key}: no {getattr(config, key)}")
    entries, dataset = [*_entries(config.file)], ContrastSet(name)
    pictures, captions = _form([entry for _, entry in entries], config.file)
    for key, entry in entries:
        try:
            dataset.examples.append(_example(key, entry, pictures, captions, config.images))
        except UnusableItem as error:
            dataset.skipped[str(error)].append(key)
    if not dataset.examples:
        reasons = "; ".join(skip_line(reason, ids) for reason, ids in dataset.skipped.items())
        raise ConfigError(f"{config.file}: no example to use: {reasons}")
    return dataset


def _entries(file: Path) -> Iterator[tuple[str, object]]:
    """Items with their key in SugarCrepe's object of objects, else their `id` or number from 0."""
    entries = [*json_entries(file)]
    if len(entries) == 1 and isinstance(entries[0], dict):
        (content,) = entries
        if content and all(isinstance(entry, dict) for entry in content.values()):
            yield from content.items()
            return
    for number, entry in enumerate(entries):
        key = entry.get("id", number) if isinstance(entry, dict) else number
        yield str(key), entry


def _form(entries: list[object], file: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    keys = [entry.keys() for entry in entries if isinstance(entry, dict)]
    for form in FORMS.values():
        if any({*form[0], *form[1]} <= own for own in keys):
            return form
    allowed = "; ".join(f"{', '.join(p + c)} ({name})" for name, (p, c) in FORMS.items())
    present = ", ".join(map(repr, keys[0])) if keys else "no JSON objects"
    raise ConfigError(f"{file}: has {present}; expected the keys {allowed}")


def _example(
    key: str, entry: object, pictures: tuple[str, ...], captions: tuple[str, ...], folder: Path
) -> ContrastExample:
    """UnusableItem with the reason if an entry is no example."""
    if not isinstance(entry, dict):
        raise UnusableItem("not a JSON object")
    for name in (*pictures, *captions):
        if not isinstance(entry.get(name), str) or not entry[name].strip():
            raise UnusableItem(f"no text under {name!r}")
    texts = [encodable(entry[name].strip()) for name in captions]
    if texts[0] == texts[1]:
        raise UnusableItem("both captions are equal")
    files = [_file(folder, entry[name].strip()) for name in pictures]
    return ContrastExample(key, files, texts, _box(entry))


def _file(folder: Path, name: str) -> Path:
    paths = [folder / f"{name}{suffix}" for suffix in SUFFIXES]
    try:
        return next(path for path in paths if path.is_file())
    except (StopIteration, ValueError, OSError):  # a name with a null byte, or one that is too long
        raise UnusableItem("no picture file") from None


def _box(entry: dict) -> tuple[int, ...]:
    if not any(name in entry for name in BOX):
        return ()
    try:
        return tuple(int(entry[name]) for name in BOX)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise UnusableItem(f"no numbers under {', '.join(BOX)}") from None
