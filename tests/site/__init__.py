"""The documentation as a site: it builds without a warning, is complete, and is found by its search.

`nox -s docs` runs these tests. They need `pip install --group docs` and Chromium.
"""
