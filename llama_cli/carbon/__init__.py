"""What training costs the climate: section 6 of the paper as arithmetic."""
