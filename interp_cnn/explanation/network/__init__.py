"""A network as the methods see it: logits, feature maps, watch over its state, contrast of logits."""
