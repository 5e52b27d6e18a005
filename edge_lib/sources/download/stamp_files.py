"""The files of Tux Paint's stamps, made into things.

A thing is NAME.png (or .svg alone), NAME.txt and NAME_desc_LANG.ogg (or .wav). The first line of
the .txt is the English description; others are translations, `LANG.utf8=`. `_desc` is the spoken
description, English where no language follows. NAME.ogg is a sound effect, and NAME_LANG.ogg the
name of a letter or number, which its description does not say: both are left out.
"""

import hashlib
import io
import re
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import soundfile

from edge_lib.data.image import decode_image
from edge_lib.data.skipped import Skipped
from edge_lib.data.unicode import is_unicode
from edge_lib.runs.progress import track
from edge_lib.sources.arrow import SkippedNames

ROOTS = r"(?:\./)?(?:usr/share/tuxpaint|[^/]+)/stamps/"  # of a .deb, of the tarball
LANGUAGE = r"[A-Za-z]{2,3}(?:_[A-Za-z]{2,4})?(?:@[A-Za-z]+)?"  # fr, pt_BR, ca@valencia
CLIP = re.compile(rf"(.+?)_desc(?:_({LANGUAGE}))?")
TRANSLATION = re.compile(rf"({LANGUAGE})\.utf8=(.*)")
TWIN = re.compile(r".+_(mirror|flip)")
PARTS, SOUNDS = (".png", ".svg", ".txt"), (".ogg", ".wav")
ENGLISH = "en"
OGG_PAGE = 27  # bytes of a page's header, the last of which is the number of segment lengths


@dataclass(frozen=True)
class Clip:
    content: bytes
    seconds: float


@dataclass(frozen=True)
class Thing:
    """A picture with its description in English, translations and recordings by language."""

    id: str  # path below the stamps' folder, without suffix
    image: bytes  # PNG
    pixels: str  # digest of the decoded picture
    caption: str
    texts: dict[str, str]
    clips: dict[str, Clip] = field(default_factory=dict)


def read_things(files: Iterable[tuple[str, bytes | None]], skipped: SkippedNames) -> list[Thing]:
    """The things of an archive, by id. skipped: gets the names of what is left out."""
    parts, clips = _group_files(files, skipped)
    things = []
    for name in track(sorted(parts), "check pictures", len(parts), " pictures"):
        thing = _read_thing(name, parts[name])
        if isinstance(thing, Skipped):
            skipped[thing.reason].append(name)
        else:
            things.append(thing)
    left_out = clips.keys() - {thing.id for thing in things}
    names = (f"{name} {language}" for name in sorted(left_out) for language in clips[name])
    skipped["clip of a thing left out"] += names
    _add_clips(things, clips, skipped)
    return things


def _group_files(files: Iterable[tuple[str, bytes | None]], skipped: SkippedNames):
    """Thing -> suffix -> content, and thing -> language -> content of the clip."""
    parts, clips = defaultdict(dict), defaultdict(dict)
    contents = dict(track(files, "read stamps", None, " files"))
    for name, content in sorted(contents.items()):
        if not (root := re.match(ROOTS, name)):
            continue
        path = PurePosixPath(name[root.end() :])
        stem, suffix = str(path.with_suffix("")), path.suffix.lower()
        if not is_unicode(name) or ".." in path.parts:
            skipped["name of a file that is not valid"].append(ascii(name))
        elif suffix in PARTS:
            parts[stem][suffix] = content
        elif suffix in SOUNDS:
            clip = CLIP.fullmatch(stem.removesuffix(suffix))  # one is called .ogg.ogg
            if problem := _add_sound(clips, clip, content):
                skipped[problem].append(name)
    return parts, clips


def _add_sound(clips: dict[str, dict], clip: re.Match | None, content: bytes | None) -> str | None:
    """Keep a spoken description; the reason if it is none."""
    if not clip:
        return "sound that is no description"
    thing, language = clip[1], _language(clip[2])
    if language in clips[thing]:
        return "second clip of a language"
    clips[thing][language] = content
    return None


def _read_thing(name: str, parts: dict[str, bytes | None]) -> Thing | Skipped:
    if TWIN.fullmatch(name):
        return Skipped("mirrored or flipped twin")
    if ".png" not in parts:
        return Skipped("SVG only" if ".svg" in parts else "description without a picture")
    if ".txt" not in parts:
        return Skipped("picture without a description")
    caption, texts = parse_description(parts[".txt"] or b"")
    if not caption:
        return Skipped("no English description")
    if not (content := parts[".png"]):
        return Skipped("empty picture")
    try:
        image = decode_image(content)
    except Exception as error:  # Pillow raises nearly anything
        return Skipped("picture that does not decode", str(error))
    pixels = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
    return Thing(name, content, pixels, caption, texts)


def parse_description(content: bytes) -> tuple[str | None, dict[str, str]]:
    """The English description of a .txt, and the translations by language. Texts that are empty or
    not UTF-8 are left out, and so are upstream's comments, which begin with #.
    """
    lines = re.split(r"\r\n?|\n", content.decode("utf-8-sig", errors="surrogateescape"))
    lines = [" ".join(line.split()) for line in lines if is_unicode(line) and line.strip()]
    lines = [line for line in lines if not line.startswith("#")]
    english = lines[0] if lines and not TRANSLATION.fullmatch(lines[0]) else None
    pairs = (TRANSLATION.fullmatch(line) for line in lines)
    texts = {_language(pair[1]): pair[2].strip() for pair in pairs if pair and pair[2].strip()}
    return english, dict(sorted(texts.items()))


def _language(code: str | None) -> str:
    """zh_tw -> zh_TW"""
    language, mark, region = (code or ENGLISH).partition("_")
    territory, at, variant = region.partition("@")
    return language.lower() + mark + territory.upper() + at + variant


def _add_clips(things: list[Thing], clips: dict, skipped: SkippedNames) -> None:
    """Each thing's clips that decode."""
    rows = [(thing, *clip) for thing in things for clip in sorted(clips[thing.id].items())]
    with ThreadPoolExecutor() as pool:
        checked = pool.map(check_clip, [content for *_, content in rows])
        checked = track(checked, "check clips", len(rows), " clips")
        for (thing, language, content), seconds in zip(rows, checked, strict=True):
            if isinstance(seconds, Skipped):
                skipped[seconds.reason].append(f"{thing.id} {language}")
            else:
                thing.clips[language] = Clip(content, seconds)


def check_clip(content: bytes | None) -> float | Skipped:
    """The length of a clip in seconds, all of which is decoded."""
    if not content:
        return Skipped("empty clip")
    if _is_cut(content):
        return Skipped("clip that ends too early")
    try:
        samples, rate = soundfile.read(io.BytesIO(content), dtype="float32")
    except Exception as error:
        return Skipped("clip that does not decode", str(error))
    return len(samples) / rate if samples.size else Skipped("clip without samples")


def _is_cut(content: bytes) -> bool:
    """Whether the last Ogg page is incomplete, which decoders pass over in silence."""
    start = content.rfind(b"OggS")
    if start < 0:
        return False
    count = content[start + OGG_PAGE - 1 :][:1]
    segments = content[start + OGG_PAGE :][: count[0]] if count else b""
    end = start + OGG_PAGE + len(segments) + sum(segments)
    return not count or len(segments) < count[0] or end > len(content)
