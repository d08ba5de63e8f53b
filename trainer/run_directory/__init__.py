"""Manage a run's directory, and the lock that admits one job at a time."""
