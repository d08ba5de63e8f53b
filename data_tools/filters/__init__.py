"""Filters: each takes a document and keeps, changes or drops it; none knows another."""
