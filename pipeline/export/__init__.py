"""What is published in the formats of other tools. To add one: one file with a `Format`, and its entry in `FORMATS`."""
