"""Object storage, shards, bundles and receipts; knows nothing of GANs."""
