"""The segmenter's training as a job: its examples, states, and workers."""
