"""What a text consists of: words, lines, n-grams."""
