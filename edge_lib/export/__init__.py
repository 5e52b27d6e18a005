"""Ways out of a run folder."""
