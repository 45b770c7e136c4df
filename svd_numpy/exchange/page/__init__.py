"""A trained network as one web page that needs nothing else: the data in it, and the page around them."""

from svd_numpy.exchange.page.html import export_html
from svd_numpy.exchange.page.writer import export_writer

__all__ = ["export_html", "export_writer"]
