"""The submitting side: product lists in, pictures out. Imports without torch."""
