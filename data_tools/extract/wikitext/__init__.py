"""Prose out of wiki markup."""
