"""Every relevance method under its name, with its options, cost and record.

`names`      the names alone, without torch       `registry`   what stands behind each
`options`    what a question may choose           `method`     what a method is
`run`, `image`   maps of images in batches, with their records; of one image
"""
