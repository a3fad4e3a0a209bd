"""Sphinx configuration of the site (`make docs`)."""

from configparser import ConfigParser
from pathlib import Path

_settings = ConfigParser(delimiters=["="])
_settings.read(Path(__file__).parents[1] / "settings.ini", encoding="utf-8")
_settings = _settings["DEFAULT"]

project = _settings["title"]
author = _settings["author"]
copyright = _settings["copyright"]
release = _settings["version"]

extensions = ["myst_nb", "sphinx.ext.viewcode", "sphinx-mathjax-offline"]
myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "dollarmath", "fieldlist", "html_image"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # pages show what the committed and the executed notebooks hold
nb_render_markdown_format = "myst"
nb_code_prompt_show = "Show the source"
nb_code_prompt_hide = "Hide the source"
highlight_language = "none"  # where a code block does not say
python_maximum_signature_line_length = 90
viewcode_follow_imported_members = False
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "pydata_sphinx_theme"
html_title = project
html_static_path = ["static"]
html_css_files = ["site.css"]
html_js_files = [("charts.js", {"type": "module"})]
html_extra_path = ["../_docs/extra"]  # scripts and data of the steering page and of docs/play
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": ["theme-version"],
}
# Formulas by MathJax, which lies with its fonts beside the pages: the site needs no network.
mathjax3_config = {"chtml": {"displayAlign": "left", "displayIndent": "1.5em"}}
