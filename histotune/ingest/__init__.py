"""From other people's files to a cohort: images, tables, slides, embeddings, new cases; datasets."""
