"""Files to entries: a crystal with its neighbours, or the reason why there is none."""
