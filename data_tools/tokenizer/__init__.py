"""Tokenizer files, samples to train on, and fast encoding."""
