"""Complete models, saved to a folder and loaded from it."""

from edge_lib.models.aligner import Aligner
from edge_lib.models.fuser import Fuser
from edge_lib.models.qa import QAModel
