"""Looking after a run: its state, and proof that nothing is lost."""
