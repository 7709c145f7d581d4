"""Names of the photos of conftest.py: a letter beyond ASCII, blanks, two formats."""

NAMES = [f"Ä photo {i}.{'png' if i % 2 else 'jpg'}" for i in range(8)]
