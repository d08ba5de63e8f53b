"""The configuration of a preparation, and its rules."""
