"""Input addresses: from what a configuration says to the list of shards."""
