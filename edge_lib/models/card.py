"""The model card of a saved model: what it is, its frozen backbones, and how to load it."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from edge_lib.config import from_root
from edge_lib.features.weights import SHIPPED

CARD, FIGURES = "README.md", "figures"
HUB_NAMES = {"all-MiniLM-L6-v2": "sentence-transformers/all-MiniLM-L6-v2"}  # of what ships
LOADED = re.compile(r'from_pretrained\("[^"]*"\)')

TEXT = """
# {title}

{summary}

## How to load it

```python
from edge_lib import {kind}

model = {kind}.from_pretrained("ORG/NAME")
{example}
```

## Model

| | |
|---|---|
{facts}
| SHA-256 of all weights | `{digest}` |

## Frozen backbones

Nothing of them is saved with the model. They are loaded by name, and refused if the digest of their
weights is not the one that the model was trained on.

| | name | revision | digest of its weights |
|---|---|---|---|
{backbones}
"""


@dataclass(frozen=True)
class Backbone:
    """A frozen model that is loaded by name. digest: `weights_digest`; empty if it is not known."""

    name: str
    revision: str | None
    digest: str

    @property
    def is_local(self) -> bool:
        """Whether the name is a folder of this machine."""
        folder = from_root(self.name)
        return self.name not in SHIPPED and (Path(self.name).is_absolute() or folder.is_dir())

    @property
    def label(self) -> str:
        """The name, without the path of a folder."""
        return f"{Path(self.name).name} (a local folder)" if self.is_local else self.name

    @property
    def hub_name(self) -> str | None:
        name = HUB_NAMES.get(self.name, self.name)
        return name if "/" in name and not self.is_local else None


def write_card(model: Any, folder: Path, digest: str) -> None:
    """Write the README.md of a `PretrainedModel` into its folder. A card that the model was loaded
    with is kept, with its figures, if it describes the same weights.

    digest: `model_digest` of the folder.
    """
    loaded = model.source and model.source / CARD
    if not (loaded and loaded.is_file() and digest in loaded.read_text()):
        (folder / CARD).write_text(str(plain_card(model, digest)))
        return
    shutil.copyfile(loaded, folder / CARD)
    if (model.source / FIGURES).is_dir():
        shutil.copytree(model.source / FIGURES, folder / FIGURES)


def plain_card(model: Any, digest: str) -> ModelCard:
    """What a `PretrainedModel` itself tells; `export.card` adds what its run does."""
    cls, backbones = model_class(model), model.backbones()
    kind = cls.__name__
    names = sorted({b.hub_name for b in backbones.values() if b.hub_name})
    data = ModelCardData(
        library_name="edge-glass",
        pipeline_tag=model.TASK,
        tags=["edge-glass", kind.lower()],
        base_model=names or None,
        base_model_relation="adapter" if names else None,
    )
    text = TEXT.format(
        title=model.title,
        summary=" ".join(cls.__doc__.partition("\n\n")[0].split()),
        kind=kind,
        example=model.example,
        facts="\n".join(f"| {name} | {value} |" for name, value in model.facts().items()),
        digest=digest,
        backbones="\n".join(
            f"| {key} | {b.label} | {b.revision or ''} | `{b.digest or 'not known'}` |"
            for key, b in backbones.items()
        ),
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n{text}")


def model_class(model: Any) -> type:
    """The class of a `PretrainedModel`, of which FSDP2 makes a subclass without a docstring."""
    return next(cls for cls in type(model).__mro__ if "FILE" in vars(cls))


def name_in_card(folder: Path, name: str) -> None:
    """Let the card load the model by its name on the Hub."""
    text = (folder / CARD).read_text()
    (folder / CARD).write_text(LOADED.sub(f'from_pretrained("{name}")', text))


def count_parameters(*modules: Any) -> str:
    """The number of parameters of modules, or of dicts of parameters, as text."""
    return f"{sum(p.numel() for module in modules for p in module.parameters()):,}"
