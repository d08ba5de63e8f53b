"""Input files: which there are, and how they are opened as streams."""
