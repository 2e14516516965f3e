"""Trained networks that come with the package, each a folder as `interp_cnn.save_pretrained` writes it."""
