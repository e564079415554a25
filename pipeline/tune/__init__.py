"""What a threshold does: shares of pixels per space, and what editability costs."""
