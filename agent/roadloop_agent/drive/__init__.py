"""The process that runs models, and nothing else."""
