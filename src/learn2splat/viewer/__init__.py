"""Looking at splats: one self-contained page (page.py and its scripts), and a viewer in the browser (server.py; extra `view`)."""
