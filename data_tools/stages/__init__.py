"""The stages of a preparation, in the parent and in workers."""
