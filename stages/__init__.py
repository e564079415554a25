"""What each stage computes: samples in, records out."""
