"""Text out of what was read: web pages, wiki markup, plain text."""
