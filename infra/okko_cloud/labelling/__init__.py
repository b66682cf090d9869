"""Labelling: a page on which people say what photos show, the most useful photos first, several people at once.

`layout` knows what lies where, `reasons` what is worth a look, `book` who decided what, `leases` who is looking at
what. `desk` puts them together over a folder or a bucket (`photos`), and `app` and `server` make a page of it.
"""
