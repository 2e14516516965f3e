"""What layers stand for: patterns of filters mined, replicated, drawn, ablated."""
