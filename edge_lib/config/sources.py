"""Sources of pictures or sound with captions: where their files are, and names of columns."""

from itertools import combinations
from pathlib import Path
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from edge_lib.config.base import Count, Fraction, RepoPath, Section, SourceSection


def _as_list(value):
    return [value] if isinstance(value, str) else value


SplitName = Literal["train", "val", "test"]
Names = Annotated[list[str], BeforeValidator(_as_list)]  # one, or several in a list


def splits_differ(files: dict[str, list[str] | Path]) -> dict[str, list[str] | Path]:
    """The files of each split. ValueError if two splits name the same."""
    named = {split: {*f} if isinstance(f, list) else {str(f)} for split, f in files.items()}
    for a, b in combinations(named, 2):
        if shared := sorted(named[a] & named[b]):
            raise ValueError(
                f"{a} and {b} name the same files: {', '.join(shared)}; to divide one set, "
                "name it as train and set data.split"
            )
    return files


SplitPaths = Annotated[dict[str, RepoPath], AfterValidator(splits_differ)]
SplitFiles = Annotated[dict[str, Names], AfterValidator(splits_differ)]


class ColumnsConfig(Section):
    """Columns of users' files; a dotted name is a field of a struct. Null: there is none."""

    image_column: str | None = "image"
    audio_column: str | None = None
    caption_column: Names | None = Field(
        ["caption"], description="one or several, of texts or lists of texts: a row's captions"
    )
    id_column: str | None = None
    image_id_column: str | None = Field(None, description="equal in rows that share an image")


class SplitsConfig(Section):
    """The base of sections that name each split, with a key of this name."""

    def named(self, split: str):
        """What the user names for a split; None if that is the default or nothing."""
        value = getattr(self, split)
        return None if value == type(self).model_fields[split].default else value


class SplitDictConfig(SplitsConfig):
    """The base of sections that name each split in one key, a dict."""

    BY_SPLIT: ClassVar[str] = "files"

    def named(self, split: str):
        return getattr(self, self.BY_SPLIT).get(split)


class HeldOutConfig(Section):
    """Held-out splits that are taken from the train split of a source. Rows of the same picture,
    clip or group stay together.
    """

    val: Fraction = Field(0.05, description="share of the rows; 0: the source has its own")
    test: Fraction = Field(0.05, description="share of the rows; 0: the source has its own")
    seed: Count = 0

    @model_validator(mode="after")
    def _leaves_rows_to_train(self):
        if self.val + self.test >= 1:
            raise ValueError(f"val {self.val} and test {self.test} leave no rows to train on")
        return self


class DividedSection(SourceSection):
    """A source of tables, whose val and test may be taken from its train split."""

    split: HeldOutConfig | None = Field(None, description="makes val and test of the train split")

    @model_validator(mode="after")
    def _no_split_is_named_twice(self):
        section = getattr(self, self.source, None)
        named = getattr(section, "get" if isinstance(section, dict) else "named", lambda _: None)
        for split in ("val", "test") if self.split else ():
            if getattr(self.split, split) and named(split) is not None:
                raise ValueError(
                    f"{self.source}.{split} and split.{split} both name this split; leave out one "
                    f"(split.{split}: 0)"
                )
        return self


class FilesConfig(SplitsConfig):
    """Files or glob patterns for each split."""

    train: Annotated[Names, Field(min_length=1)]
    val: Names | None = None
    test: Names | None = None

    @model_validator(mode="after")
    def _splits_differ(self):
        splits_differ({split: getattr(self, split) or [] for split in get_args(SplitName)})
        return self


class TableFilesConfig(FilesConfig):
    """csv, tsv, json, jsonl or Parquet files whose pictures and sounds are paths, data URIs, bytes
    or {bytes, path}.
    """

    folder: RepoPath | None = Field(
        None, description="of relative paths; by default that of the table, then the repository"
    )


class TableConfig(TableFilesConfig, ColumnsConfig):
    """Tables of pictures or sounds with captions."""


class HubSplitsConfig(SplitsConfig):
    """A data set of the Hugging Face Hub, or a folder: written by save_to_disk, or one that
    load_dataset reads.
    """

    name: str = Field(description="org/name, or a folder")
    config: str | None = Field(None, description="one of the data set's configurations")
    revision: str | None = Field(None, description="branch, tag or commit")
    train: str = "train"
    val: str | None = "validation"
    test: str | None = "test"


class HubConfig(HubSplitsConfig, ColumnsConfig):
    """A data set of pictures or sounds with captions."""


class FolderConfig(Section):
    """A folder with pictures or sounds, or with folders train, val and test of them. Captions are
    in metadata.csv, .jsonl or .parquet (file_name, and a column of captions), in a .txt beside each
    file, or are the names of the folders.
    """

    path: RepoPath
    caption_column: Names | None = Field(
        ["caption"], description="of the metadata; null: captions are only read from .txt files"
    )
    id_column: str | None = Field(None, description="of the metadata; null: the file's name")


class WebDatasetConfig(FilesConfig):
    """Tar files; the files of a sample have one name and differ in the extension. A column is an
    extension, or a field of the .json, as in json.caption.
    """

    image_column: str | None = Field(None, description="null: any picture")
    audio_column: str | None = Field(None, description="null: any sound")
    caption_column: Names | None = Field(None, description="null: txt, or else json.caption")


class CocoConfig(SplitsConfig):
    """COCO's captions_*.json for each split, or one file: Karpathy's dataset_coco.json (_flickr8k,
    _flickr30k), which has all splits, or a captions_*.json that data.split divides.
    """

    annotations: RepoPath | dict[SplitName, RepoPath]
    images: RepoPath | dict[SplitName, RepoPath] = Field(description="folder, or one a split")

    def named(self, split: str) -> Path | None:
        return self.annotations.get(split) if isinstance(self.annotations, dict) else None


class CommonVoiceConfig(SplitsConfig):
    """The folder of one language of Mozilla Common Voice: tsv files, and `clips/`."""

    folder: RepoPath
    train: str = "train.tsv"
    val: str | None = "dev.tsv"
    test: str | None = "test.tsv"
