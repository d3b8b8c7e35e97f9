"""One module a verb: the only place where the parts are wired together."""
