"""Decisions of networks as sheets: asked, and put into the values that pages and files are made of."""
