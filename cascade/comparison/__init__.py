"""Several runs side by side: what differs in them, what came of it, and their videos."""
