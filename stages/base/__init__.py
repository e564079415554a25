"""What a stage is, and what stages that compute in batches share."""
