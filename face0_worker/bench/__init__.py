"""`face0-worker bench`: how fast this engine renders beside diffusers, both measured in turn in one run."""
