"""One HTML file that shows a whole run: it opens offline, makes no request and takes every number from a record."""
