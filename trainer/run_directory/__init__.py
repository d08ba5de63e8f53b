"""A run's directory, and the lock that keeps it to one job."""
