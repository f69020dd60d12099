"""The commands, one module each; `gradpath.cli` imports the one that is called for."""
