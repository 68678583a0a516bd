"""The runtime of language models: memory of what was said, sampling, text as it comes."""
