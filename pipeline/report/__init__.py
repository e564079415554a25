"""The results of a run: figures, pictures, and the page that shows them."""
