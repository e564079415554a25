"""The embedded demo: procedural scenes, a generator trained on them, and a small perceptual backbone."""
