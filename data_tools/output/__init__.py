"""The output of a preparation: published files, tables, statistics."""
