"""Turn one example for fine-tuning into tokens and labels: conversations, classified texts, tags, questions, pairs."""
