"""The parts of `benchmarks.parity`, one module per folder of the reference data."""
