"""Execution: worker processes, spooled batches, journals, progress."""
