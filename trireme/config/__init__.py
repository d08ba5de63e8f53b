"""Read, check and document the three configurations: training, data preparation, certificate."""
