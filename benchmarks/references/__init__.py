"""What `benchmarks.parity` compares, one module a folder of the reference data."""
