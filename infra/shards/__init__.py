"""WebDataset shards: scanned once, then read by ranges."""
