"""What is measured when: the pipeline of a search and its stages."""
