"""Images and what is known about them: one sample type, every data set, the loaders that feed a network."""
