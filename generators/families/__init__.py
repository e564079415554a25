"""The generator families: one file per network architecture."""
