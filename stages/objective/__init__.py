"""The objective of an inversion."""
