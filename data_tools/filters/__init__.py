"""Filters: each keeps, changes or drops a document; none depends on another."""
