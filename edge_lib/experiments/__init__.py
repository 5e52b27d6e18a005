"""Training and evaluation that the notebooks launch; the main file of each has its name."""
