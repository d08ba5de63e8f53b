"""Read, write and check token shards on disk."""
