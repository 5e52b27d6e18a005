"""What notebooks launch: one file a notebook."""
