"""Search in embeddings: `MatryoshkaIndex` of one vector an item, `MaxSimIndex` of one a token."""

from edge_lib.search.matryoshka import Hits, MatryoshkaIndex
from edge_lib.search.maxsim import MaxSimIndex

__all__ = ["Hits", "MatryoshkaIndex", "MaxSimIndex"]
