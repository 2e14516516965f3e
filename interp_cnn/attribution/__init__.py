"""Images explained into a folder: what is asked, maps per image, resumable."""
