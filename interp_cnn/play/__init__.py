"""A live page: an image is painted over, filters are switched off, and the networks answer at once.

`playground`  networks and images, asked and answering   `questions`  what is asked
`silence`     filters that are switched off            `pictures`   paint on images, pictures as PNG
`server`      the page and its questions over HTTP, for this machine alone; `page/` is what the browser gets
"""
