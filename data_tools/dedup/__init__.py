"""Duplicates across the whole corpus, exact and near, and what is decided about each document."""
