"""``udmsh serve``: an index in the browser, a JSON API, and checks that keep strangers out.

A request passes :mod:`middleware <udmsh_pl.serve.middleware>` (names, sessions, limits) and is
answered by :mod:`api <udmsh_pl.serve.api>` from a :mod:`collection <udmsh_pl.serve.collection>`;
:mod:`decoder <udmsh_pl.serve.decoder>`'s processes alone open strangers' bytes. Needs the extra
``udmsh-pl[serve]``.
"""
