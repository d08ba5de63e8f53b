"""A small polite crawler."""
