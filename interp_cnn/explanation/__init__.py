"""What a network looks at: a classifier and images in, maps, patches and positions out."""
