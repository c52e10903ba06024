"""Text into batches: sources, tokenizers, token shards, packing and the pipeline. Knows nothing of models."""
