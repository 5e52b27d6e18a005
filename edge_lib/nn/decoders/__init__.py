"""Decoders that answer from a prefix: a plain transformer, and a recursive one.

Both read `[prefix][question]` once, as context, and then the answer, token by token:

    prefix rows     see the prefix
    question rows   see the prefix and the question; no context row sees an answer
    answer rows     see the context and the answer so far
"""

from edge_lib.nn.decoders.base import Decoder
from edge_lib.nn.decoders.plain import PlainDecoder
from edge_lib.nn.decoders.trm import RecursiveDecoder

DECODERS = {"plain": PlainDecoder, "trm": RecursiveDecoder}


__all__ = ["DECODERS", "Decoder", "PlainDecoder", "RecursiveDecoder"]
