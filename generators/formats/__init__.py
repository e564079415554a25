"""One module per checkpoint format: bytes in, named tensors and a configuration out; no code from a file is run."""
