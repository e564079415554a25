"""Object stores: the contract, and one file per kind of store."""
