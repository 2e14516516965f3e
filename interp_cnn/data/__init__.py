"""Images and what is known about them: one sample type, every data set, the loaders that feed a network.

`parts`          the sample: an image, its category, its landmarks; and what a set of them is
`digits`, `mnist`, `animal_parts`, `car_parts`, `cub200`, `image_folder`   the data sets, a file each
`datamodule`     the two sides of a data set as batches for Lightning
`split`, `split_record`   who is trained on and who judges, and what a run remembers of it
`augmentation`   random changes of images, together with their landmarks
`images`, `image_files`, `folders`, `tables`   what is read from disk, and what is left out
"""
