"""Networks whose top filters keep to one part: templates, masks, the loss on them, and the backbones."""
