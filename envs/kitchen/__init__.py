"""A kitchen of seven things that can be done, some of which are due in an order that nobody demonstrates."""
