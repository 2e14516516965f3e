"""Decision sheets: a logit as the sum of its filters' shares, what each filter sees, what is left without it."""
