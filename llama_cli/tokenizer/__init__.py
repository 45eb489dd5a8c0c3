"""Text to token ids and back, and learning a vocabulary (LLaMA, section 2.1)."""
