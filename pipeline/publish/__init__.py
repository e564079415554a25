"""The index of all bundles, and the pointer that readers follow."""
