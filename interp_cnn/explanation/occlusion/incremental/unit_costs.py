"""What the smallest pieces of work cost: nanoseconds of one core with AVX-512, measured; only their ratios matter."""

PRODUCT = 1 / 70  # one multiply-add in a matrix product
CELL = 0.3  # one element read or written in an elementwise pass
TILE_CELL = 0.17  # the same in the passes of tiles, whose buffers stay in the cache
DIRECT_CELL = 0.6  # one output of torch's convolution of small frames, beside its products
CALL = 2500.0  # one call of a torch function
WEIGHT = 0.2  # one weight brought into the order the processor wants, once per call
