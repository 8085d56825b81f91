"""The face0 render service. Importing the package imports nothing else."""
