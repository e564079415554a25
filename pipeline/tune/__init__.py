"""The effect of a threshold: shares of pixels per space, and the cost of editability."""
