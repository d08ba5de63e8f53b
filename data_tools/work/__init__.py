"""What carries work through a preparation: worker processes, spooled batches, journals, progress."""
