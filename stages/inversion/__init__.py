"""How a stage inverts images: networks, start, objective and engine combined."""
