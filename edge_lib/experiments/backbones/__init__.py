"""The tiny backbones that ship, trained from scratch by `notebooks/00_backbones.ipynb`."""
