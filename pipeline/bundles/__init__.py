"""Reading what is published: images by key, batches on a device, and a stream for training."""
