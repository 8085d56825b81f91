"""Handing pictures out: which, checked, to where, in which form and under which names. The door is `results`."""
