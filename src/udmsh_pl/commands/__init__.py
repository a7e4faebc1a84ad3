"""One file a command of ``udmsh``; each is loaded when it is called."""
