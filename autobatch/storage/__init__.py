"""Files: saved results, the cache of answers, and the JSON that both are written in."""
