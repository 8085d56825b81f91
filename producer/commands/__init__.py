"""One module for each group of `face0` commands; each command speaks for functions that live in the rooms."""
