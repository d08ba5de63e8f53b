"""What the three configurations (training, data preparation, certificate) share."""
