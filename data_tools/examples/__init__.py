"""Read examples for fine-tuning, pack them into rows of one length, and write them as shards with labels."""
