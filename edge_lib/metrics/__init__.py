"""Numbers: recall, answers, captions, the shape of an embedding space."""
