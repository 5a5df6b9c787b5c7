"""The wheel and the sdist as an index and its users get them: `nox -s package` runs these tests."""
