"""What an actor does."""
