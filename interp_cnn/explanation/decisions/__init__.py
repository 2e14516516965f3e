"""Why this decision: the shares that a layer's filters have in a logit, and what is left of it without them."""
