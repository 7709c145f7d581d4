"""Looking at splats: one self-contained page (page.py and its scripts)."""
