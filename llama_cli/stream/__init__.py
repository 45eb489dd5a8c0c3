"""Bytes in, records out, and back; nothing else touches stdin, stdout or compression."""
