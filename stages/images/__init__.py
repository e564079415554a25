"""From the members of a sample to pixels and labels."""
