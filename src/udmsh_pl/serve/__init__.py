"""``udmsh serve`` (extra ``udmsh-pl[serve]``): an index in the browser, and a JSON API.

A request passes :mod:`middleware <udmsh_pl.serve.middleware>`, :mod:`api <udmsh_pl.serve.api>` and
:mod:`service <udmsh_pl.serve.service>`; the processes of :mod:`decoder <udmsh_pl.serve.decoder>`
alone open strangers' bytes.
"""
