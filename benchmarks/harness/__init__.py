"""What benchmarks and tests share to run parts of the product by themselves."""
