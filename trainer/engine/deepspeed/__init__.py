"""The DeepSpeed back end."""
