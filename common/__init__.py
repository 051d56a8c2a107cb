"""What every room needs and none owns: errors, devices, files, checkpoints, the embedder."""
