"""The batched optimiser: a batch of fixed width that images enter and leave. Knows nothing of the thesis."""
