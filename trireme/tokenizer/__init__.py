"""Encode and decode text with SentencePiece models and tokenizer.json files."""
