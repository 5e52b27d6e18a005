"""Search in embeddings: `MatryoshkaIndex` of one vector an item, `MixedIndex` of several
modalities, `MaxSimIndex` of one vector a token.
"""

from edge_lib.search.matryoshka import Hits, MatryoshkaIndex
from edge_lib.search.maxsim import MaxSimIndex
from edge_lib.search.mixed import MixedIndex

__all__ = ["Hits", "MatryoshkaIndex", "MaxSimIndex", "MixedIndex"]
