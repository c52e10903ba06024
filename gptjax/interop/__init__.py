"""Models in other people's files: Hugging Face folders, GGUF and llama2.c, in and out."""
