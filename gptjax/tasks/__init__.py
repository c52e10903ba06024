"""What a model is trained and scored on: each task turns features and a batch into sums and counts."""
