"""The common parts of stages that train a network: workers, states to resume from, learning rates."""
