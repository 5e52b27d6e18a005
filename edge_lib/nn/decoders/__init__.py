"""Decoders that answer from a prefix: a plain transformer, and a recursive one.

Both process `[prefix][question]` once, as context, and then the answer, token by token:

    prefix rows     attend to the prefix
    question rows   attend to the prefix and the question; no context row attends to an answer
    answer rows     attend to the context and the answer so far
"""

from edge_lib.nn.decoders.base import Decoder, PlainDecoder, build_decoder
from edge_lib.nn.decoders.trm import RecursiveDecoder
