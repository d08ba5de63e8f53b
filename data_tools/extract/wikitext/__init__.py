"""Extract prose from wikitext."""
