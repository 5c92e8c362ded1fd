"""Reports: an answer rendered as text, HTML or code to paste. They return `str` and print nothing."""
