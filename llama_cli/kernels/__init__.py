"""The one operation worth a kernel of its own: causal attention, and how it is chosen."""
