"""Drafting: the sources of draft tokens, the tree they grow, and the policies that price them."""
