"""Looking after a run: its status, and proof that nothing is lost."""
