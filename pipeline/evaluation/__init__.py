"""Methods compared on the same images: computed as bundles, read back as tables, claims and pictures."""
