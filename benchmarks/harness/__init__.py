"""Parts that benchmarks and tests share to run the product's components separately."""
