"""Readers: one format each, record by record, past damage."""
