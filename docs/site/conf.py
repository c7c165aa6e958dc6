"""Sphinx's settings for the site; build.py stages its pages and runs it."""

from normscope.version import __version__

project = "normscope"
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
suppress_warnings = ["toc.not_included"]  # results' own pages are reached by their links
root_doc = "README"
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 4
default_role = "code"  # docstrings are written with single backticks
html_theme = "furo"
html_title = "normscope"
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
autodoc_member_order = "bysource"
python_display_short_literal_types = True
python_maximum_signature_line_length = 80
pygments_style = "friendly"
