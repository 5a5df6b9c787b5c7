"""The live view for people."""
