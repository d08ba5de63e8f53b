"""Encode examples for fine-tuning: conversations, completions, classified texts, tags, questions, preferences."""
