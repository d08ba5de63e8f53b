"""The common ground of data preparation, training and launching: no torch, and no imports from above."""
