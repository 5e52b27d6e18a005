"""The embedded toy world: scenes of handwritten digits, drawn, described, spoken, asked about."""
