"""The report of a preparation, for people."""
