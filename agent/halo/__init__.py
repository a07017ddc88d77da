"""The mathematics of options that nobody wrote down: posteriors given labels, their fit, and where to ask next."""
