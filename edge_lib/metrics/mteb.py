"""An aligner as an encoder of mteb: MTEB, MIEB (pictures) and MAEB (sound).

    import mteb
    from edge_lib import Aligner
    from edge_lib.metrics.mteb import MTEBEncoder

    encoder = MTEBEncoder(Aligner.from_pretrained("runs/.../checkpoints/best"), "me/scenes", dim=64)
    mteb.evaluate(encoder, mteb.get_tasks(tasks=["CIFAR10ZeroShot"]))

Needs `pip install "edge-glass[mteb]"`.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edge_lib.config import MODALITIES
from edge_lib.config.registry import load_registered

if TYPE_CHECKING:
    from mteb.models import ModelMeta

log = logging.getLogger(__name__)
NAMES = {"image": "vision", "audio": "audio", "text": "text"}  # mteb's name -> ours


class MTEBEncoder:
    """Unit embeddings of an `Aligner` for mteb's tasks; an item of several modalities is the sum of
    theirs.

    name: "organisation/model", by which mteb files the results. dim: size of the embedding, by
    default the whole one. Raises ConfigError for heads with a vector for each token, ValueError for
    a dim that the aligner lacks.
    """

    def __init__(self, aligner: Any, name: str, dim: int | None = None):
        aligner.check_pooled("mteb")
        if dim and dim not in aligner.dims:
            raise ValueError(f"dim {dim}: the aligner has {', '.join(map(str, aligner.dims))}")
        self.aligner, self.name, self.dim = aligner, name, dim or max(aligner.dims)
        self.skipped = 0  # items without a usable form, whose embedding is 0

    @property
    def mteb_model_meta(self) -> "ModelMeta":
        """mteb reuses results of the same name and revision: the revision names weights and dim."""
        from mteb.models import ModelMeta
        from mteb.models.model_meta import ScoringFunction

        own = [name for name, ours in NAMES.items() if ours in self.aligner.modalities]
        facts = {"name": self.name, "revision": f"{_digest(self.aligner)}-dim{self.dim}"}
        facts |= {"modalities": own, "embed_dim": self.dim, "framework": ["PyTorch"]}
        return ModelMeta.create_empty(facts | {"similarity_fn_name": ScoringFunction.COSINE})

    def encode(self, inputs: Iterable[Mapping[str, list]], **task: Any) -> np.ndarray:
        """(N, dim) float32 of all batches, each with lists of PIL images, clips or texts under
        mteb's names of modalities. ValueError for a batch with none that the aligner has.

        An item without a usable form, such as an empty text, has a zero vector, is counted in
        `skipped`, and named in one warning a batch.
        """
        return np.concatenate([self._embed_batch(batch) for batch in inputs])

    def similarity(self, a: Any, b: Any) -> Tensor:
        """(A, B) cosines of embeddings (A, dim) and (B, dim)."""
        return _unit(a) @ _unit(b).T

    def similarity_pairwise(self, a: Any, b: Any) -> Tensor:
        """(N,) cosines of the pairs of (N, dim) and (N, dim)."""
        return (_unit(a) * _unit(b)).sum(1)

    def _embed_batch(self, batch: Mapping[str, list]) -> np.ndarray:
        own = [name for name in NAMES if name in batch and NAMES[name] in self.aligner.modalities]
        if not own:
            known = ", ".join(self.aligner.modalities)
            raise ValueError(f"a batch of {', '.join(batch)}, but the aligner has {known}")
        return sum(self._embed(NAMES[name], [*batch[name]]) for name in own)

    def _embed(self, modality: str, items: list) -> np.ndarray:
        embeddings, errors = np.zeros((len(items), self.dim), np.float32), []
        usable = {}
        for number, item in enumerate(items):
            try:
                usable[number] = _normal_form(modality, item)
            except Exception as error:  # decoders raise nearly anything on a broken file
                errors.append(str(error) or type(error).__name__)
        if usable:
            vectors = self.aligner.embed(modality, [*usable.values()])[:, : self.dim]
            embeddings[[*usable]] = F.normalize(vectors.float(), dim=1).cpu().numpy()
        if errors:
            self.skipped += len(errors)
            message = "%s: %d of %d items have no embedding: %s"
            log.warning(message, modality, len(errors), len(items), errors[0][:200])
        return embeddings


def _normal_form(modality: str, item: Any) -> Any:
    """A text, PIL image or clip at 16 kHz from what mteb gives. ValueError if there is none."""
    if modality == "text":
        if not item or not item.strip():
            raise ValueError("an empty text")
        return item
    normalize = load_registered(MODALITIES[modality].normalize)
    if modality == "vision":
        return normalize(item)
    if isinstance(item, dict) and "array" not in item:  # not decoded
        return load_registered(MODALITIES[modality].decode)(item["bytes"])
    return normalize(np.asarray(item["array"]), item["sampling_rate"])


def _unit(x: Any) -> Tensor:
    return F.normalize(torch.atleast_2d(torch.as_tensor(x).float()), dim=1)


def _digest(aligner: Any) -> str:
    """Of the heads' weights and the encoders."""
    digest = hashlib.blake2b(digest_size=8)
    for name, value in aligner.state_dict().items():
        digest.update(name.encode() + value.cpu().float().numpy().tobytes())
    digest.update(json.dumps(aligner.encoder_digests, sort_keys=True).encode())
    return digest.hexdigest()
