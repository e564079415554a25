"""The user study: blinded pairs of pictures by two methods, as pages; and what annotators preferred (Table 4.2)."""
