"""``udmsh serve``: an index in the browser, a JSON API, and what keeps strangers out.

A request passes :mod:`guard <udmsh_pl.serve.guard>` (names, sessions, limits), is answered by
:mod:`api <udmsh_pl.serve.api>` from a :mod:`collection <udmsh_pl.serve.collection>`, and strangers'
bytes are opened in :mod:`decoder <udmsh_pl.serve.decoder>`'s processes alone. Needs the extra
``udmsh-pl[serve]``.
"""
