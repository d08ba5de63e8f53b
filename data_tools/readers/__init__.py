"""Readers: one format each, record by record; damaged places are skipped and counted."""
