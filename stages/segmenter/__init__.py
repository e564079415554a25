"""The segmenter: the network that predicts invertibility maps, and its training."""
