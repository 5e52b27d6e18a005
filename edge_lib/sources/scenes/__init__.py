"""The built-in data set: scenes of handwritten digits, with captions, speech and questions."""
