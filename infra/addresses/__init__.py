"""Input addresses: from the configuration's text to the list of shards."""
