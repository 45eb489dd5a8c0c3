"""Scoring a model as section 3 of the paper does, and showing the paper's figures beside."""
