"""Thin commands: options in, one call, nothing else. Only here and in cli.py is click."""
