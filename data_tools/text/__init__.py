"""Words, lines and n-grams of a text."""
