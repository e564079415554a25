"""What a run found out: figures, pictures, and the page that shows them."""
