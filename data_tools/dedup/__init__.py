"""Deduplication across the corpus (exact, MinHash, lines), and the decision about each document."""
