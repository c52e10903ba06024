"""Continues text with a trained model: rules for choosing a token, cached decoding, and the command line for both."""
