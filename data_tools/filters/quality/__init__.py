"""Published quality rules: Gopher, C4, FineWeb."""
