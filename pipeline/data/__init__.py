"""What there is: shards, units, what is committed of them, and their addresses."""
