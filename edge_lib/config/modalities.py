"""The kinds of input. Adding one adds an entry here and a section to `ExperimentConfig`."""

from dataclasses import dataclass
from typing import Annotated

from edge_lib.config.registry import one_of


@dataclass(frozen=True)
class Modality:
    """One kind of input. "module:name" strings are imported when they are first used.

    column: of the table that holds its items.
    encoder: class of its frozen encoder, a `features.encoder.Encoder`.
    blank: function that makes an input to stand for a missing item.
    decode: function from a file's bytes to an item; None where the column holds text.
    normalize: function from an item as users have it to the form that `decode` gives; None if it is
    taken as it is.
    placeholder: stands for an item in a chat message; None if it cannot be part of one.
    """

    name: str
    column: str
    encoder: str
    blank: str
    decode: str | None = None
    normalize: str | None = None
    placeholder: str | None = None


MODALITIES = {
    modality.name: modality
    for modality in (
        Modality(
            "vision",
            column="image",
            encoder="edge_lib.features.vision:VisionEncoder",
            blank="edge_lib.data.image:blank_image",
            decode="edge_lib.data.image:decode_image",
            normalize="edge_lib.data.image:normalize_image",
            placeholder="<image>",
        ),
        Modality(
            "audio",
            column="audio",
            encoder="edge_lib.features.audio:AudioEncoder",
            blank="edge_lib.data.audio:blank_clip",
            decode="edge_lib.data.audio:decode_audio",
            normalize="edge_lib.data.audio:normalize_audio",
            placeholder="<audio>",
        ),
        Modality(
            "text",
            column="texts",
            encoder="edge_lib.features.text:TextEncoder",
            blank="builtins:str",
        ),
    )
}
ModalityName = Annotated[str, one_of(MODALITIES)]
