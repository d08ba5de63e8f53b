"""A preparation's output: published files, tables, statistics."""
