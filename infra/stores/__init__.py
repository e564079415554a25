"""Object stores: what a store is, and one file per kind of store."""
